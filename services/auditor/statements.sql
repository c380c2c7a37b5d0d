-- The auditor's statements. Ids travel as their 16 bytes; {schema} is an arm's; a null run means all runs.

-- intents: what was promised, and under which Idempotency-Key
SELECT uuid_send(message_id) AS id, idempotency_key AS key FROM intents WHERE $1::text IS NULL OR run = $1;

-- intents_among: which of these ids have an intent, and the trace that made it
SELECT uuid_send(message_id) AS id, traceparent FROM intents
WHERE message_id = ANY ($1::uuid[]) AND ($2::text IS NULL OR run = $2);

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
SELECT uuid_send(message_id) AS id, $1::text IS NULL OR run = $1 AS ours FROM {schema}.records
WHERE status = 'applied';

-- records_among: every application of the effect `record` to these messages, and the record that it was for
SELECT uuid_send(message_id) AS id, topic, partition, "offset" FROM {schema}.records
WHERE status = 'applied' AND message_id = ANY ($1::uuid[]);

-- applications: of a charge or an email, in the provider's own store, which knows no runs
SELECT message_id AS id, $1::text IS NULL AS ours FROM applications WHERE account = $2 AND effect = $3;

-- applications_among: every application of a charge or an email to these messages, and the record that it was for
SELECT message_id AS id, topic, partition, "offset" FROM applications
WHERE account = $1 AND effect = $2 AND message_id = ANY ($3::text[]);
