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
