-- Outbox of the publisher arm `cdc`: its inserts are read from the write-ahead log. Applied before storage/outbox.sql,
-- whose table of that name is then there already.

-- Rows stay until they are confirmed, because the slot may be lost. Three partitions by turns, ten seconds each: one is
-- written, the others wait to be emptied as a whole, by `empty_confirmed`. (To attach and drop partitions would lock the
-- table against the inserts.)
CREATE TABLE IF NOT EXISTS outbox (
    position   bigint GENERATED ALWAYS AS IDENTITY,
    message_id uuid NOT NULL,
    shard      smallint NOT NULL,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    key        text NOT NULL,
    type       text NOT NULL,
    payload    bytea NOT NULL,
    headers    jsonb NOT NULL,                 -- trace context, effects, run
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    turn       smallint NOT NULL DEFAULT extract(epoch FROM clock_timestamp())::bigint / 10 % 3,
    PRIMARY KEY (position, turn)
) PARTITION BY LIST (turn);
CREATE TABLE IF NOT EXISTS outbox_0 PARTITION OF outbox FOR VALUES IN (0);
CREATE TABLE IF NOT EXISTS outbox_1 PARTITION OF outbox FOR VALUES IN (1);
CREATE TABLE IF NOT EXISTS outbox_2 PARTITION OF outbox FOR VALUES IN (2);

-- How far it is, in one row. Every transaction that `snapshot` sees is confirmed: published, and passed by the slot.
-- Null: nothing is known to be.
CREATE TABLE IF NOT EXISTS progress (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    snapshot  pg_snapshot,
    republish boolean NOT NULL DEFAULT false   -- the slot was lost: all kept rows are to be published again
);
INSERT INTO progress DEFAULT VALUES ON CONFLICT DO NOTHING;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'cdc') THEN
        CREATE PUBLICATION cdc FOR TABLE outbox (position, message_id, key, type, payload, headers, created_at)
            WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END
$$;

-- Empty each partition that is not written now and has confirmed rows only. The lock is had when nobody writes into it,
-- reads it, or could: then all its rows are seen. Busy ones are for the next time.
CREATE OR REPLACE FUNCTION empty_confirmed() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_written int := extract(epoch FROM clock_timestamp())::bigint / 10 % 3;
    confirmed   pg_snapshot := (SELECT snapshot FROM progress);
    old         text;
    waits       boolean;
BEGIN
    FOR old IN SELECT 'outbox_' || n FROM generate_series(0, 2) AS n WHERE n <> now_written LOOP
        BEGIN
            CONTINUE WHEN pg_relation_size(old) = 0;
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE NOWAIT', old);
            EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE pg_visible_in_snapshot(xid, $1) IS NOT TRUE)', old)
                INTO waits USING confirmed;
            IF NOT waits THEN
                EXECUTE format('TRUNCATE %I', old);
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END LOOP;
END
$$;
