-- The outbox of every database that the relay reads: of a producer (`orders`, `refunds`), and of `payments`, where the
-- rows are redriven letters.

-- Messages that are committed and not yet confirmed by the broker. A producer draws `position` under the key's advisory
-- lock, so a key's rows commit in the order of their positions. Of a redriven letter, `type` is its arm's name.
CREATE TABLE IF NOT EXISTS outbox (
    position   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL,
    shard      smallint NOT NULL,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    key        text NOT NULL,
    type       text NOT NULL,
    payload    bytea NOT NULL,
    headers    jsonb NOT NULL,                 -- trace context, effects, run; or services/domain/redrive.py
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Rows that the broker refuses for ever, moved out of the way with the reason: waiting for a person, not lost.
CREATE TABLE IF NOT EXISTS outbox_set_aside (
    position     bigint PRIMARY KEY,
    message_id   uuid NOT NULL,
    shard        smallint NOT NULL,
    xid          xid8 NOT NULL,
    key          text NOT NULL,
    type         text NOT NULL,
    payload      bytea NOT NULL,
    headers      jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    reason       text NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
