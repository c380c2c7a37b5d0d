-- Statements of the consumer arms; {schema} is the arm's schema in the database `payments`. One round trip a chunk each.

-- insert_records: the effect `record` of a chunk, as most code does it: no unique id, no dedup
INSERT INTO {schema}.records
       (message_id, run, type, business_id, customer_id, amount_cents, currency, topic, partition, "offset", life)
SELECT r.*, $11::uuid
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
              $8::text[], $9::int[], $10::bigint[]) AS r;

-- insert_dead_letters: records that the arm will never apply; one that was redriven and comes back is parked again.
-- Returns those that were set down by this: one that is parked already is no other letter.
WITH put AS (
    INSERT INTO {schema}.dead_letters AS l
           (topic, partition, "offset", message_id, run, reason, detail, attempts, key, value, headers,
            first_failure, last_failure, life)
    SELECT d.topic, d.part, d.off, d.id, d.run, d.reason, d.detail, d.attempts, d.key, d.value, d.headers::jsonb,
           to_timestamp(d.first), to_timestamp(d.last), $14::uuid
      FROM unnest($1::text[], $2::int[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[],
                  $9::bytea[], $10::bytea[], $11::text[], $12::float8[], $13::float8[])
           AS d (topic, part, off, id, run, reason, detail, attempts, key, value, headers, first, last)
        ON CONFLICT (topic, partition, "offset") DO UPDATE
       SET state = 'parked', reason = excluded.reason, detail = excluded.detail, attempts = excluded.attempts,
           last_failure = excluded.last_failure, xid = pg_current_xact_id()
     WHERE l.state = 'redriven'
    RETURNING l.letter, l.rounds, l.reason
), logged AS (
    INSERT INTO {schema}.letter_log (letter, action, actor, why, life)
    SELECT letter, 'returned', 'arm', reason, $14::uuid FROM put WHERE rounds > 0
)
SELECT reason FROM put;

-- reserve: decide about a chunk's ids and reserve the new ones; returns a row for each record that is not a first
SELECT * FROM {schema}.reserve($1::int, $2::uuid[], $3::bytea[], $4::text[], $5::int[], $6::bigint[], $7::text[],
                               $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[], $13::bool[],
                               $14::bool[], $15::text[], $16::bool, $17::uuid);

-- keep_window: partitions for what comes, none of what is older than the window
SELECT * FROM {schema}.keep_window($1::float8);

-- complete: the charges of these ids are applied: done, records applied, their emails ready to be sent; returns how many
-- records that are, because another process may have been quicker
WITH finished AS (
    UPDATE {schema}.inbox SET state = 'done' WHERE message_id = ANY ($1::uuid[]) AND state = 'reserved'
    RETURNING message_id
), applied AS (
    UPDATE {schema}.records r SET status = 'applied', life = $3::uuid, xid = pg_current_xact_id(), at = clock_timestamp()
      FROM finished f WHERE r.message_id = f.message_id AND r.status = 'pending'
    RETURNING r.message_id, r.run, r.customer_id, r.topic, r.partition, r."offset"
), mailing AS (
    INSERT INTO {schema}.emails (message_id, run, customer_id, topic, partition, "offset", life)
    SELECT a.*, $3::uuid FROM applied a WHERE a.message_id = ANY ($2::uuid[])
        ON CONFLICT DO NOTHING
)
SELECT count(*) AS records FROM applied;

-- span_emails: the emails of these messages will belong to these spans; old ones are forgotten
WITH old AS (DELETE FROM {schema}.email_spans WHERE at < clock_timestamp() - interval '10 minutes')
INSERT INTO {schema}.email_spans (message_id, traceparent) SELECT * FROM unnest($1::uuid[], $2::text[])
    ON CONFLICT (message_id) DO UPDATE SET traceparent = excluded.traceparent;

-- claim_emails: from here on these emails are this life's; committed before any call, so that none is sent twice
UPDATE {schema}.emails SET state = 'claimed', claimed_by = $1::uuid, claimed_at = clock_timestamp()
 WHERE message_id = ANY (ARRAY(SELECT message_id FROM {schema}.emails WHERE state = 'pending' ORDER BY at LIMIT $2
                                  FOR UPDATE SKIP LOCKED))
RETURNING message_id, run, customer_id, topic, partition, "offset",
          (SELECT s.traceparent FROM {schema}.email_spans s WHERE s.message_id = emails.message_id) AS traceparent;

-- settle_emails: what became of claimed emails; one that was swept as uncertain meanwhile is known again. Its letter is
-- parked before this: where it was redriven in between, whose record may have come back already, it is to be sent again
UPDATE {schema}.emails e SET xid = pg_current_xact_id(), state = CASE WHEN o.state = 'refused' AND EXISTS (
           SELECT FROM {schema}.dead_letters l WHERE l.state = 'redriven'
              AND (l.topic, l.partition, l."offset") = (e.topic, e.partition, e."offset")) THEN 'pending' ELSE o.state END
  FROM unnest($1::uuid[], $2::text[]) AS o (message_id, state)
 WHERE e.message_id = o.message_id AND e.claimed_by = $3::uuid AND e.state IN ('claimed', 'uncertain');

-- resend_emails: emails of these messages whose letter was redriven. Refused for ever, they were surely not sent, so they
-- may be; an uncertain one never, and none whose letter was parked again or discarded meanwhile. A late copy of the
-- record finds them pending, claimed or sent
UPDATE {schema}.emails e SET state = 'pending', xid = pg_current_xact_id()
  FROM {schema}.dead_letters l
 WHERE e.message_id = ANY ($1::uuid[]) AND e.state = 'refused' AND l.state = 'redriven'
   AND (l.topic, l.partition, l."offset") = (e.topic, e.partition, e."offset")
RETURNING e.message_id;

-- sweep_emails: claimed for longer than any call takes: the claimant is dead or frozen, and nobody knows
UPDATE {schema}.emails SET state = 'uncertain', xid = pg_current_xact_id()
 WHERE state = 'claimed' AND claimed_at < clock_timestamp() - make_interval(secs => $1)
RETURNING message_id, claimed_by,
          (SELECT s.traceparent FROM {schema}.email_spans s WHERE s.message_id = emails.message_id) AS traceparent;
