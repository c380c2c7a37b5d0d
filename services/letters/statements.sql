-- Dead letters in the database `payments`. {schema} is the arm's. A selection is $1 to $5: reason, state, not before,
-- message id, letters; null means any.

-- list: the newest letters of a selection, newest first, $6 at most; `matching` counts all of them
SELECT letter, topic, partition, "offset", message_id, run, reason, detail, state, rounds, attempts,
       octet_length(value) AS size, first_failure, last_failure, count(*) OVER () AS matching
  FROM {schema}.dead_letters
 WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR state = $2)
   AND ($3::timestamptz IS NULL OR last_failure >= $3) AND ($4::uuid IS NULL OR message_id = $4)
   AND ($5::bigint[] IS NULL OR letter = ANY ($5))
 ORDER BY last_failure DESC, letter DESC
 LIMIT $6;

-- contents: what the record of a letter was
SELECT key, value, headers::text AS headers FROM {schema}.dead_letters WHERE letter = $1;

-- log: what was done with a letter
SELECT action, actor, why, at FROM {schema}.letter_log WHERE letter = $1 ORDER BY seq;

-- last: the newest letter there is
SELECT coalesce(max(letter), 0) FROM {schema}.dead_letters;

-- page: the next letters of a selection, $8 at most, after letter $6 and up to letter $7
SELECT letter, topic, partition, "offset", message_id, rounds, first_failure, key, headers::text AS headers,
       value IS NULL AS away, coalesce(octet_length(value), 0) AS kept
  FROM {schema}.dead_letters
 WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR state = $2)
   AND ($3::timestamptz IS NULL OR last_failure >= $3) AND ($4::uuid IS NULL OR message_id = $4)
   AND ($5::bigint[] IS NULL OR letter = ANY ($5))
   AND letter > $6 AND letter <= $7
 ORDER BY letter
 LIMIT $8;

-- redrive: mark letters ($1, seen after so many rounds: $2), log it, lay their records into the outbox: all in one
-- transaction. A letter that was changed since it was read is left alone; returns those that were taken.
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::uuid[], $4::smallint[], $5::text[], $6::bytea[], $7::text[])
        AS g (letter, rounds, message_id, shard, key, value, headers)
), parked AS MATERIALIZED (
    SELECT d.letter FROM {schema}.dead_letters d JOIN given g ON g.letter = d.letter AND g.rounds = d.rounds
     WHERE d.state = 'parked' ORDER BY d.letter FOR UPDATE OF d
), taken AS (
    UPDATE {schema}.dead_letters d SET state = 'redriven', rounds = d.rounds + 1, xid = pg_current_xact_id()
      FROM parked p WHERE d.letter = p.letter
    RETURNING d.letter, d.value
), logged AS (
    INSERT INTO {schema}.letter_log (letter, action, actor, why)
    SELECT letter, 'redriven', $8, $9 FROM taken ORDER BY letter
), laid AS (
    INSERT INTO outbox (message_id, shard, key, type, payload, headers)
    SELECT g.message_id, g.shard, g.key, $10, coalesce(t.value, g.value, ''), g.headers::jsonb
      FROM taken t JOIN given g ON g.letter = t.letter ORDER BY t.letter
)
SELECT letter FROM taken;

-- discard: mark letters ($1, seen after so many rounds: $2) as never to be applied, and log it
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::int[]) AS g (letter, rounds)
), parked AS MATERIALIZED (
    SELECT d.letter FROM {schema}.dead_letters d JOIN given g ON g.letter = d.letter AND g.rounds = d.rounds
     WHERE d.state = 'parked' ORDER BY d.letter FOR UPDATE OF d
), taken AS (
    UPDATE {schema}.dead_letters d SET state = 'discarded', xid = pg_current_xact_id()
      FROM parked p WHERE d.letter = p.letter
    RETURNING d.letter
), logged AS (
    INSERT INTO {schema}.letter_log (letter, action, actor, why)
    SELECT letter, 'discarded', $3, $4 FROM taken ORDER BY letter
)
SELECT letter FROM taken;

-- tombstones: the ids of discarded letters ($1) that carry one are known from now on, so that a later copy is skipped.
-- An id that another payload has, or that was applied, stays as it is. $3, $4: type and value (null: as stored).
INSERT INTO {schema}.inbox AS known (message_id, digest, state, topic, partition, "offset", life)
SELECT DISTINCT ON (d.message_id) d.message_id, sha256(g.type || '\x00'::bytea || coalesce(d.value, g.value, '')),
       'discarded', d.topic, d.partition, d."offset", $2::uuid
  FROM unnest($1::bigint[], $3::bytea[], $4::bytea[]) AS g (letter, type, value)
  JOIN {schema}.dead_letters d ON d.letter = g.letter
 WHERE d.message_id IS NOT NULL
 ORDER BY d.message_id, d.letter
    ON CONFLICT (message_id) DO UPDATE SET state = 'discarded', xid = pg_current_xact_id()
 WHERE known.state = 'reserved' AND known.digest = excluded.digest;
