-- The statements of the third party.

-- charge: apply a charge, or answer what its key knows; says what came of it
SELECT outcome, body FROM charge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- email: apply an email; nothing is ever recognised as a repeat
INSERT INTO applications AS a (account, effect, message_id, customer_id, topic, partition, "offset", life)
VALUES ($1, 'email', $2, $3, $4, $5, $6, $7)
RETURNING json_build_object('id', 'email-' || a.seq, 'message_id', a.message_id)::text AS body;

-- find: what was answered under a key that has not expired
SELECT body FROM idempotency_keys WHERE account = $1 AND key = $2 AND expires_at > clock_timestamp();

-- accounts: applications by account and effect
SELECT account, effect, count(*) AS applications FROM applications GROUP BY account, effect ORDER BY account, effect;
