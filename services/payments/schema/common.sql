-- Database `payments`: one schema an arm; these tables in every one. {schema} is the arm's name.
CREATE SCHEMA IF NOT EXISTS {schema};

-- The effect `record`. Without a unique id: the ledger shows what the arm did, twice if it did it twice.
CREATE TABLE IF NOT EXISTS {schema}.records (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id   uuid NOT NULL,
    run          text NOT NULL,
    type         text NOT NULL,
    business_id  text NOT NULL,
    customer_id  text NOT NULL,
    amount_cents bigint NOT NULL,
    currency     text NOT NULL,
    status       text NOT NULL DEFAULT 'applied' CHECK (status IN ('pending', 'applied')),
    topic        text NOT NULL,
    partition    int NOT NULL,
    "offset"     bigint NOT NULL,
    life         uuid NOT NULL,                -- the process incarnation that wrote it
    xid          xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at           timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS records_message_id ON {schema}.records (message_id);

-- Records that the arm will never apply, by where it first met them: set down before the offset passes them. The
-- topic payments.<arm>.dlq is the log, this is the state. A letter that was redriven and comes back is parked again.
CREATE TABLE IF NOT EXISTS {schema}.dead_letters (
    letter        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- how people name it
    topic         text NOT NULL,
    partition     int NOT NULL,
    "offset"      bigint NOT NULL,
    message_id    uuid,                        -- where the headers carry one
    run           text NOT NULL DEFAULT '',
    reason        text NOT NULL,               -- a closed word: services/domain/failure_policy.py, messages.py
    detail        text NOT NULL,
    state         text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'redriven', 'discarded')),
    rounds        int NOT NULL DEFAULT 0,      -- how often it was redriven
    attempts      int NOT NULL DEFAULT 0,      -- calls of the provider, in vain
    key           bytea,
    value         bytea,
    headers       jsonb NOT NULL DEFAULT '[]', -- the original ones: [[name, base64 or null], ...]
    first_failure timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_failure  timestamptz NOT NULL DEFAULT clock_timestamp(),
    life          uuid NOT NULL,               -- that parked it first
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition, "offset")
);
CREATE INDEX IF NOT EXISTS dead_letters_parked ON {schema}.dead_letters (letter) WHERE state = 'parked';

-- What people did with letters, and that they came back: who, when, why. Never changed.
CREATE TABLE IF NOT EXISTS {schema}.letter_log (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter bigint NOT NULL,
    action text NOT NULL CHECK (action IN ('redriven', 'discarded', 'returned')),
    actor  text NOT NULL,
    why    text NOT NULL,
    life   uuid,                               -- of the process that parked it again
    at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE {schema}.letter_log ADD COLUMN IF NOT EXISTS life uuid;  -- of a lab that is older than the column
