-- The auditor's statements. Ids travel as their 16 bytes; {schema} is an arm's; a null run means all runs.

-- intents: what was promised, and under which Idempotency-Key
SELECT uuid_send(message_id) AS id, idempotency_key AS key, digest, run FROM intents
WHERE $1::text IS NULL OR run = $1;

-- snapshot_now: which transactions are over (below xmin), and which are yet to begin (from xmax)
SELECT pg_snapshot_xmin(s)::text::bigint AS xmin, pg_snapshot_xmax(s)::text::bigint AS xmax FROM pg_current_snapshot() s;

-- intents_after: those with an id above the floor; ids are of their time
SELECT message_id, idempotency_key AS key, digest, run FROM intents
WHERE message_id > $1::uuid ORDER BY message_id LIMIT $2;

-- records_after: rows above the floor, those that are pending, too
SELECT seq, status, uuid_send(message_id) AS id, true AS ours, topic, partition, "offset", life::text,
       amount_cents, currency, customer_id, business_id, type, run
FROM {schema}.records WHERE seq > $1 ORDER BY seq LIMIT $2;

-- applied_among: which of these pending rows are applied by now
SELECT seq FROM {schema}.records WHERE seq = ANY ($1::bigint[]) AND status = 'applied';

-- applications_after: of every account, above the floor
SELECT seq, account, effect, message_id AS id, true AS ours, topic, partition, "offset", life,
       amount_cents, currency, customer_id
FROM applications WHERE seq > $1 ORDER BY seq LIMIT $2;

-- records_up_to: how many there are, to see that none was taken away
SELECT count(*) FROM {schema}.records WHERE seq <= $1;

-- applications_up_to: how many there are
SELECT count(*) FROM applications WHERE seq <= $1;

-- records_there: which of these rows are still there
SELECT seq FROM {schema}.records WHERE seq = ANY ($1::bigint[]);

-- applications_there: which of these rows are still there
SELECT seq FROM applications WHERE seq = ANY ($1::bigint[]);

-- intents_up_to: how many there are
SELECT count(*) FROM intents WHERE message_id <= $1;

-- intents_count: how many there are
SELECT count(*) FROM intents;

-- intents_among: which of these ids have an intent, and the trace that made it
SELECT uuid_send(message_id) AS id, traceparent FROM intents
WHERE message_id = ANY ($1::uuid[]) AND ($2::text IS NULL OR run = $2);

-- intents_made: when these intents were made, by the database's clock
SELECT uuid_send(message_id) AS id, extract(epoch FROM created_at)::float8 AS made FROM intents
WHERE message_id = ANY ($1::uuid[]);

-- outbox_rows: where these messages lie in an outbox whose rows stay
SELECT uuid_send(message_id) AS id, position FROM outbox WHERE message_id = ANY ($1::uuid[]);

-- records_seen: when these messages were applied, for which record, by which process
SELECT uuid_send(message_id) AS id, extract(epoch FROM at)::float8 AS at, topic, partition, "offset", life::text
FROM {schema}.records WHERE status = 'applied' AND message_id = ANY ($1::uuid[]);

-- calls_seen: when the provider applied an effect for these messages
SELECT message_id AS id, extract(epoch FROM at)::float8 AS at, topic, partition, "offset", life FROM applications
WHERE account = $1 AND effect = $2 AND message_id = ANY ($3::text[]);

-- letters_seen: calls in vain of letters about these messages, and what the last one got
SELECT uuid_send(message_id) AS id, attempts, detail FROM {schema}.dead_letters WHERE message_id = ANY ($1::uuid[]);

-- emails_claimed: who took it on to send these
SELECT uuid_send(message_id) AS id, extract(epoch FROM claimed_at)::float8 AS at, claimed_by::text AS life
FROM {schema}.emails WHERE claimed_at IS NOT NULL AND message_id = ANY ($1::uuid[]);

-- explain_intent: the intent of one message
SELECT extract(epoch FROM created_at)::float8 AS at, idempotency_key, run, traceparent, business_id, effects FROM intents
WHERE message_id = $1;

-- explain_outbox: what has not left of one message, and what was set aside
SELECT extract(epoch FROM created_at)::float8 AS at, 'outbox row ' || position || ', not removed yet' AS what FROM outbox
WHERE message_id = $1
UNION ALL
SELECT extract(epoch FROM set_aside_at)::float8, 'set aside by the relay: ' || reason FROM outbox_set_aside
WHERE message_id = $1;

-- explain_record: applications of the effect `record`
SELECT extract(epoch FROM at)::float8 AS at,
       'record ' || status || ' for ' || topic || '/' || partition || '/' || "offset" || ' by life ' || life AS what
FROM {schema}.records WHERE message_id = $1;

-- explain_calls: applications by the provider
SELECT extract(epoch FROM at)::float8 AS at,
       effect || ' applied for ' || topic || '/' || partition || '/' || "offset" || ' by life ' || life
       || CASE WHEN idempotency_key IS NULL THEN '' ELSE ' under key ' || idempotency_key END AS what
FROM applications WHERE message_id = $1 AND account = $2;

-- explain_letter: the dead letters about one message
SELECT extract(epoch FROM at)::float8 AS at,
       'dead letter ' || letter || ' ' || state || ', ' || reason || ' after ' || attempts || ' attempts: ' || detail AS what
FROM {schema}.dead_letters WHERE message_id = $1;

-- explain_letter_log: what people did with them
SELECT extract(epoch FROM g.at)::float8 AS at,
       'letter ' || g.letter || ' ' || g.action || ' by ' || g.actor || ': ' || g.why AS what
FROM {schema}.letter_log g JOIN {schema}.dead_letters l ON l.letter = g.letter WHERE l.message_id = $1;

-- explain_inbox: when its id was met first
SELECT extract(epoch FROM first_attempt)::float8 AS at,
       'id reserved for ' || topic || '/' || partition || '/' || "offset" || ', now ' || state AS what
FROM {schema}.inbox WHERE message_id = $1;

-- explain_dedup: every later meeting with its id
SELECT extract(epoch FROM at)::float8 AS at,
       decision || ' (' || reason || ') of ' || topic || '/' || partition || '/' || "offset" AS what
FROM {schema}.dedup_hits WHERE message_id = $1;

-- explain_email: its email as a row
SELECT extract(epoch FROM coalesce(claimed_at, at))::float8 AS at, 'email ' || state AS what
FROM {schema}.emails WHERE message_id = $1;

-- until_confirmed: what has not left; one statement, because a row that is set aside between two would be in neither
SELECT uuid_send(message_id) AS id, NULL AS reason FROM outbox
UNION ALL
SELECT uuid_send(message_id), reason FROM outbox_set_aside;

-- cursor: rows stay, and those above the position that was published last have not left
SELECT uuid_send(message_id) AS id, NULL AS reason FROM outbox WHERE position > (SELECT position FROM progress)
UNION ALL
SELECT uuid_send(message_id), reason FROM outbox_set_aside;

-- snapshot: rows stay a while, and those of transactions that the confirmed snapshot does not see have not left
SELECT uuid_send(message_id) AS id, NULL AS reason FROM outbox
WHERE pg_visible_in_snapshot(xid, (SELECT snapshot FROM progress)) IS NOT TRUE
UNION ALL
SELECT uuid_send(message_id), reason FROM outbox_set_aside;

-- letters: dead letters of an arm
SELECT topic, partition, "offset", uuid_send(message_id) AS id, state, reason FROM {schema}.dead_letters;

-- redrives: letters of an arm that the relay has yet to carry, or has set aside with a reason
SELECT coalesce(headers ->> 'origin', '') AS origin, NULL AS reason FROM outbox WHERE type = $1
UNION ALL
SELECT coalesce(headers ->> 'origin', ''), reason FROM outbox_set_aside WHERE type = $1;

-- has_emails: whether the arm keeps its emails as rows
SELECT to_regclass('{schema}.emails') IS NOT NULL AS there;

-- emails: rows that are not sent
SELECT uuid_send(message_id) AS id, state FROM {schema}.emails WHERE state <> 'sent';

-- records: applications of the effect `record`
SELECT uuid_send(message_id) AS id, $1::text IS NULL OR run = $1 AS ours, topic, partition, "offset", life::text,
       amount_cents, currency, customer_id, business_id, type, run
FROM {schema}.records WHERE status = 'applied';

-- records_among: every application of the effect `record` to these messages
SELECT uuid_send(message_id) AS id, true AS ours, topic, partition, "offset", life::text,
       amount_cents, currency, customer_id, business_id, type, run
FROM {schema}.records WHERE status = 'applied' AND message_id = ANY ($1::uuid[]);

-- lives_of_records: which process wrote how many records
SELECT life::text, $1::text AS arm, count(*) AS many FROM {schema}.records GROUP BY life;

-- charges: applications in the provider's own store, which knows no runs
SELECT message_id AS id, $1::text IS NULL AS ours, topic, partition, "offset", life, amount_cents, currency, customer_id
FROM applications WHERE account = $2 AND effect = 'charge';

-- charges_among: every charge of these messages
SELECT message_id AS id, true AS ours, topic, partition, "offset", life, amount_cents, currency, customer_id
FROM applications WHERE account = $1 AND effect = 'charge' AND message_id = ANY ($2::text[]);

-- emails_sent: applications in the provider's own store
SELECT message_id AS id, $1::text IS NULL AS ours, topic, partition, "offset", life, customer_id
FROM applications WHERE account = $2 AND effect = 'email';

-- emails_sent_among: every email about these messages
SELECT message_id AS id, true AS ours, topic, partition, "offset", life, customer_id
FROM applications WHERE account = $1 AND effect = 'email' AND message_id = ANY ($2::text[]);

-- lives: which process made how many calls
SELECT life, account AS arm, count(*) AS many FROM applications GROUP BY life, account;
