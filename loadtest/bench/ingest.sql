-- pgbench's script: the two inserts of an accepted order in one transaction, prepared, nothing else.
\set n random(1, 1000000000)
BEGIN;
INSERT INTO intents (message_id, business_id, customer_id, amount_cents, currency, effects, run, idempotency_key,
                     digest, traceparent)
VALUES (uuidv7(), gen_random_uuid()::text, 'customer-' || :n % 1000, 4200, 'EUR', '{record}', 'bench', '',
        sha256('anchor'), '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00')
RETURNING message_id AS id \gset
INSERT INTO outbox (message_id, shard, key, type, payload, headers)
VALUES (:id, :n % 16, 'customer-' || :n % 1000, 'lab.order.placed.v1',
        '{"order_id":"0af76519-16cd-43dd-8448-eb211c80319c","customer_id":"customer-1","amount_cents":4200,"currency":"EUR"}',
        '{"lab-effects": "record", "lab-run": "bench", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}');
COMMIT;
