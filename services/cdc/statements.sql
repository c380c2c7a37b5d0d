-- The statements of the publisher arm `cdc`, beside its replication stream.

-- look: what has committed by now, and the end of the write-ahead log after that: who has confirmed up to there has
-- confirmed every transaction that the snapshot sees.
SELECT pg_current_snapshot()::text AS snapshot, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS position;

-- confirmed: every transaction that the snapshot sees is published.
UPDATE progress SET snapshot = $1::text::pg_snapshot;

-- empty: partitions with confirmed rows only.
SELECT empty_confirmed();

-- to_republish: whether all kept rows are to be published again, and up to which position.
SELECT (SELECT max(position) FROM outbox) AS last FROM progress WHERE republish;

-- kept: rows after $1 and up to $2, in the order of their positions.
SELECT position, message_id, key, type, payload, headers, created_at
FROM outbox WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3;

-- republished: all of them were.
UPDATE progress SET republish = false;

-- set_aside: keep a row that can never be published, with the reason.
INSERT INTO outbox_set_aside (position, message_id, shard, xid, key, type, payload, headers, created_at, reason)
SELECT position, message_id, shard, xid, key, type, payload, headers, created_at, $2 FROM outbox WHERE position = $1
ON CONFLICT DO NOTHING;
