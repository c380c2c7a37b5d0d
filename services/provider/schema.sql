-- Database `provider` on the ledger server: the outside world. It stores every application; it never dedups silently.
CREATE TABLE IF NOT EXISTS applications (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account         text NOT NULL,             -- one account an arm
    effect          text NOT NULL CHECK (effect IN ('charge', 'email')),
    message_id      text NOT NULL,             -- as the caller names it
    idempotency_key text,                      -- null where the caller sent none
    amount_cents    bigint,                    -- charges
    currency        text,
    customer_id     text NOT NULL,
    topic           text NOT NULL,             -- what the caller says of the record it works on
    partition       int NOT NULL,
    "offset"        bigint NOT NULL,
    life            text NOT NULL,             -- from User-Agent
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at              timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS applications_message ON applications (account, effect, message_id);

CREATE TABLE IF NOT EXISTS idempotency_keys (
    account    text NOT NULL,
    key        text NOT NULL,
    digest     bytea NOT NULL,                 -- of the request's body
    body       text NOT NULL,                  -- the first success, answered again
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX IF NOT EXISTS idempotency_keys_expiry ON idempotency_keys (expires_at);

-- A charge in one round trip: applying it and storing its key are one transaction. A function and not one statement,
-- because what is read must be newer than the lock. Outcomes: applied, replayed, mismatch, in_progress, too_late.
CREATE OR REPLACE FUNCTION charge(
    p_account text, p_key text, p_digest bytea, p_message_id text, p_customer_id text, p_amount_cents bigint,
    p_currency text, p_topic text, p_partition int, p_offset bigint, p_life text, p_not_after_s float8,
    p_key_lifetime_s float8
) RETURNS TABLE (outcome text, body text) LANGUAGE plpgsql AS $$
DECLARE
    seen   idempotency_keys%ROWTYPE;
    answer text;
BEGIN
    IF p_key IS NOT NULL THEN
        IF NOT pg_try_advisory_xact_lock(hashtextextended(p_account || E'\n' || p_key, 1)) THEN
            RETURN QUERY SELECT 'in_progress', NULL::text;
            RETURN;
        END IF;
        SELECT * INTO seen FROM idempotency_keys k
        WHERE k.account = p_account AND k.key = p_key AND k.expires_at > clock_timestamp();
        IF FOUND THEN
            IF seen.digest = p_digest THEN
                RETURN QUERY SELECT 'replayed', seen.body;
            ELSE
                RETURN QUERY SELECT 'mismatch', NULL::text;
            END IF;
            RETURN;
        END IF;
    END IF;
    IF clock_timestamp() > to_timestamp(p_not_after_s) THEN
        RETURN QUERY SELECT 'too_late', NULL::text;
        RETURN;
    END IF;
    INSERT INTO applications AS a (account, effect, message_id, idempotency_key, amount_cents, currency, customer_id,
                                   topic, partition, "offset", life)
    VALUES (p_account, 'charge', p_message_id, p_key, p_amount_cents, p_currency, p_customer_id,
            p_topic, p_partition, p_offset, p_life)
    RETURNING json_build_object('id', 'charge-' || a.seq, 'message_id', p_message_id)::text INTO answer;
    IF p_key IS NOT NULL THEN
        INSERT INTO idempotency_keys AS k (account, key, digest, body, expires_at)
        VALUES (p_account, p_key, p_digest, answer, clock_timestamp() + make_interval(secs => p_key_lifetime_s))
        ON CONFLICT (account, key) DO UPDATE
            SET digest = excluded.digest, body = excluded.body, expires_at = excluded.expires_at;
        -- Expired keys go a few at a time, more than come: the table stays as large as a lifetime's keys. By now(), which
        -- an index can be asked for: of clock_timestamp(), which is volatile, every key would be read at every charge.
        DELETE FROM idempotency_keys k WHERE (k.account, k.key) IN (
            SELECT e.account, e.key FROM idempotency_keys e WHERE e.expires_at < now()
            ORDER BY e.expires_at LIMIT 2 FOR UPDATE SKIP LOCKED
        );
    END IF;
    RETURN QUERY SELECT 'applied', answer;
END
$$;
