-- become_member: this session counts as one relay for as long as its connection lives.
SELECT pg_advisory_lock($1, pg_backend_pid());

-- census: who holds what: members ($1) and owners of shards ($2).
SELECT classid::bigint::int AS class, objid::bigint::int AS number, pid = pg_backend_pid() AS mine
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint IN ($1::int, $2::int);

-- take: try to own these shards ($2); returns those that are now this session's.
SELECT shard FROM unnest($2::int[]) AS shard WHERE pg_try_advisory_lock($1::int, shard);

-- release: let these shards ($2) go.
SELECT pg_advisory_unlock($1::int, shard) FROM unnest($2::int[]) AS shard;

-- turn_over: in one round trip, remove what the broker confirmed ($1) and read on in the owned shards ($3). Always from
-- the table's start, leaving out what is in flight ($2): a row that commits late, below rows already published, is read
-- before any later row of its key. The rows in $1 are left out too: the statement still sees them.
WITH gone AS (DELETE FROM outbox WHERE position = ANY ($1::bigint[]))
SELECT position, message_id, shard, key, type, payload, headers, created_at
FROM outbox
WHERE shard = ANY ($3::smallint[])
  AND position NOT IN (SELECT unnest($1::bigint[] || $2::bigint[]))
ORDER BY position
LIMIT $4::int;

-- delete: remove what the broker confirmed.
DELETE FROM outbox WHERE position = ANY ($1::bigint[]);

-- set_aside: move a row that can never be published out of the way, with the reason.
WITH gone AS (DELETE FROM outbox WHERE position = $1 RETURNING *)
INSERT INTO outbox_set_aside (position, message_id, shard, xid, key, type, payload, headers, created_at, reason)
SELECT position, message_id, shard, xid, key, type, payload, headers, created_at, $2 FROM gone;

-- ping: the session lives, and with it its locks.
SELECT 1;
