-- What `effectively_once` has besides: the ids it has met, and each email as a row that is sent at most once.
CREATE UNIQUE INDEX IF NOT EXISTS records_once ON {schema}.records (message_id);

CREATE TABLE IF NOT EXISTS {schema}.inbox (
    message_id    uuid PRIMARY KEY,
    digest        bytea NOT NULL,
    state         text NOT NULL CHECK (state IN ('reserved', 'done')),
    topic         text NOT NULL,               -- where it was first seen
    partition     int NOT NULL,
    "offset"      bigint NOT NULL,
    first_attempt timestamptz NOT NULL DEFAULT clock_timestamp(),
    life          uuid NOT NULL,
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY RANGE (message_id);             -- UUIDv7: a range of ids is a range of time
CREATE TABLE IF NOT EXISTS {schema}.inbox_default PARTITION OF {schema}.inbox DEFAULT;

-- Every later meeting with a known id, written in the transaction that decided it: the exact figure of dedup hits.
CREATE TABLE IF NOT EXISTS {schema}.dedup_hits (
    seq              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id       uuid NOT NULL,
    decision         text NOT NULL CHECK (decision IN ('duplicate', 'resumed', 'conflict')),
    reason           text NOT NULL CHECK (reason IN ('redelivery', 'producer_duplicate')),
    topic            text NOT NULL,
    partition        int NOT NULL,
    "offset"         bigint NOT NULL,
    first_topic      text NOT NULL,
    first_partition  int NOT NULL,
    first_offset     bigint NOT NULL,
    life             uuid NOT NULL,
    xid              xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at               timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- pending -> claimed (committed before the call) -> sent | uncertain. Nothing leads back from claimed to the call.
CREATE TABLE IF NOT EXISTS {schema}.emails (
    message_id  uuid PRIMARY KEY,
    run         text NOT NULL,
    customer_id text NOT NULL,
    topic       text NOT NULL,
    partition   int NOT NULL,
    "offset"    bigint NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'claimed', 'sent', 'uncertain')),
    claimed_by  uuid,                          -- the life that called, or was about to
    claimed_at  timestamptz,
    life        uuid NOT NULL,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS emails_open ON {schema}.emails (at) WHERE state IN ('pending', 'claimed');
