-- The statements of a producer.

-- accept: intent, idempotency key and outbox row in one transaction and one round trip; says what came of it
SELECT outcome, body, message_id FROM accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- find: the intent of a business id
SELECT business_id, message_id, customer_id, amount_cents, currency, reason, effects, created_at
FROM intents WHERE business_id = $1;
