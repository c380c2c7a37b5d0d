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

-- Records that the arm will never apply, by their coordinates: set down before the offset passes them.
CREATE TABLE IF NOT EXISTS {schema}.dead_letters (
    topic      text NOT NULL,
    partition  int NOT NULL,
    "offset"   bigint NOT NULL,
    message_id uuid,                           -- where the headers carry one
    reason     text NOT NULL,                  -- no_message_id, unknown_type, undecodable, invalid, conflict, refused
    detail     text NOT NULL,
    life       uuid NOT NULL,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition, "offset")
);
