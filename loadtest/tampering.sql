-- What tampering does to the applied effects of an arm; {schema} is the arm's name. Chosen are the newest that are older
-- than 10 s: the group's offset is past them, so nothing will come back and make them good, and the auditor's cursor is,
-- so that it misses them when it counts next. Each answers message ids.

-- remove_record: takes rows out
DELETE FROM {schema}.records WHERE seq IN (
    SELECT seq FROM {schema}.records WHERE status = 'applied' AND at < clock_timestamp() - interval '10 s'
    ORDER BY seq DESC LIMIT $1)
RETURNING message_id::text AS id;

-- repeat_record: writes rows again; an arm with a unique constraint refuses that
INSERT INTO {schema}.records (message_id, run, type, business_id, customer_id, amount_cents, currency, topic, partition,
                              "offset", life)
SELECT message_id, run, type, business_id, customer_id, amount_cents, currency, topic, partition, "offset", life
FROM {schema}.records WHERE status = 'applied' AND at < clock_timestamp() - interval '10 s'
ORDER BY seq DESC LIMIT $1
RETURNING message_id::text AS id;

-- invent_record: writes rows like those, under ids that nobody knows
INSERT INTO {schema}.records (message_id, run, type, business_id, customer_id, amount_cents, currency, topic, partition,
                              "offset", life)
SELECT gen_random_uuid(), run, type, business_id, customer_id, amount_cents, currency, topic, partition, "offset", life
FROM {schema}.records WHERE status = 'applied' AND at < clock_timestamp() - interval '10 s'
ORDER BY seq DESC LIMIT $1
RETURNING message_id::text AS id;

-- remove_call: takes applications out of the provider's store
DELETE FROM applications WHERE seq IN (
    SELECT seq FROM applications WHERE account = $2 AND effect = $3 AND at < clock_timestamp() - interval '10 s'
    ORDER BY seq DESC LIMIT $1)
RETURNING message_id AS id;

-- repeat_call: writes applications again
INSERT INTO applications (account, effect, message_id, idempotency_key, amount_cents, currency, customer_id, topic,
                          partition, "offset", life)
SELECT account, effect, message_id, idempotency_key, amount_cents, currency, customer_id, topic, partition, "offset", life
FROM applications WHERE account = $2 AND effect = $3 AND at < clock_timestamp() - interval '10 s'
ORDER BY seq DESC LIMIT $1
RETURNING message_id AS id;

-- invent_call: writes applications like those, under ids that nobody knows
INSERT INTO applications (account, effect, message_id, amount_cents, currency, customer_id, topic, partition, "offset",
                          life)
SELECT account, effect, gen_random_uuid()::text, amount_cents, currency, customer_id, topic, partition, "offset", life
FROM applications WHERE account = $2 AND effect = $3 AND at < clock_timestamp() - interval '10 s'
ORDER BY seq DESC LIMIT $1
RETURNING message_id AS id;
