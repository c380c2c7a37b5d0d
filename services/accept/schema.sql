-- Database of a producer (`orders`, `refunds`): the intent, its idempotency key and its outbox row, written together.
-- The outbox: services/storage/outbox.sql.

-- The committed business row: the promise that each of its effects happens exactly once.
CREATE TABLE IF NOT EXISTS intents (
    message_id      uuid PRIMARY KEY,
    business_id     text NOT NULL UNIQUE,
    customer_id     text NOT NULL,
    amount_cents    bigint NOT NULL,
    currency        text NOT NULL,
    reason          text,
    effects         text[] NOT NULL,
    run             text NOT NULL,
    idempotency_key text NOT NULL,
    digest          bytea NOT NULL,            -- SHA-256 over type and payload, as consumers compute it
    traceparent     text NOT NULL,
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS intents_run ON intents (run);

-- What was answered under a key, so that a repeat gets the same status and body.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key        text PRIMARY KEY,
    digest     bytea NOT NULL,                 -- of the request: effects and payload
    body       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the transaction does besides for the message to be published: here its outbox row.
CREATE OR REPLACE FUNCTION enqueue(
    p_message_id uuid, p_shard smallint, p_customer_id text, p_type text, p_payload bytea, p_headers jsonb
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (message_id, shard, key, type, payload, headers)
    VALUES (p_message_id, p_shard, p_customer_id, p_type, p_payload, p_headers);
END
$$;

-- One round trip for the whole transaction. A function and not one statement, because after a lock was waited for the
-- next look must have a new snapshot. Outcomes: created, replayed, mismatch, in_progress, taken.
CREATE OR REPLACE FUNCTION accept(
    p_key text, p_request_digest bytea, p_digest bytea, p_business_id text, p_customer_id text, p_amount_cents bigint,
    p_currency text, p_reason text, p_effects text[], p_run text, p_type text, p_payload bytea, p_shard smallint,
    p_headers jsonb
) RETURNS TABLE (outcome text, body text, message_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    seen   idempotency_keys%ROWTYPE;
    new_id uuid;
    answer text;
BEGIN
    -- Not a waiting insert: a request whose first attempt is still running is told so (409).
    IF NOT pg_try_advisory_xact_lock(hashtextextended(p_key, 1)) THEN
        RETURN QUERY SELECT 'in_progress', NULL::text, NULL::uuid;
        RETURN;
    END IF;
    SELECT * INTO seen FROM idempotency_keys k WHERE k.key = p_key;
    IF FOUND THEN
        IF seen.digest = p_request_digest THEN
            RETURN QUERY SELECT 'replayed', seen.body, NULL::uuid;
        ELSE
            RETURN QUERY SELECT 'mismatch', NULL::text, NULL::uuid;
        END IF;
        RETURN;
    END IF;
    -- Two rows of one customer commit in the order in which they draw their positions.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_customer_id, 2));
    new_id := uuidv7();
    INSERT INTO intents (message_id, business_id, customer_id, amount_cents, currency, reason, effects, run,
                         idempotency_key, digest, traceparent)
    VALUES (new_id, p_business_id, p_customer_id, p_amount_cents, p_currency, p_reason, p_effects, p_run,
            p_key, p_digest, coalesce(p_headers ->> 'traceparent', ''))
    ON CONFLICT (business_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'taken', NULL::text, NULL::uuid;
        RETURN;
    END IF;
    answer := json_build_object('id', p_business_id, 'message_id', new_id)::text;
    INSERT INTO idempotency_keys (key, digest, body) VALUES (p_key, p_request_digest, answer);
    PERFORM enqueue(new_id, p_shard, p_customer_id, p_type, p_payload, p_headers);
    RETURN QUERY SELECT 'created', answer, new_id;
END
$$;
