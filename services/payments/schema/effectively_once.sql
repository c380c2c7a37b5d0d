-- What `effectively_once` has besides: the ids it has met, and each email as a row that is sent at most once.
CREATE UNIQUE INDEX IF NOT EXISTS records_once ON {schema}.records (message_id);

CREATE TABLE IF NOT EXISTS {schema}.inbox (
    message_id    uuid PRIMARY KEY,
    digest        bytea NOT NULL,
    state         text NOT NULL CHECK (state IN ('reserved', 'done', 'discarded')),
    topic         text NOT NULL,               -- where it was first seen
    partition     int NOT NULL,
    "offset"      bigint NOT NULL,
    first_attempt timestamptz NOT NULL DEFAULT clock_timestamp(),
    life          uuid NOT NULL,
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY RANGE (message_id);             -- UUIDv7: a range of ids is a range of time
CREATE TABLE IF NOT EXISTS {schema}.inbox_default PARTITION OF {schema}.inbox DEFAULT;

-- Ids below the floor may have been forgotten: whether such a record is new cannot be known any more.
CREATE TABLE IF NOT EXISTS {schema}.inbox_window (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    floor    uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO {schema}.inbox_window DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The smallest UUIDv7 of a millisecond (RFC 9562).
CREATE OR REPLACE FUNCTION {schema}.first_id(p_ms bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(p_ms), 12, '0') || '70008000000000000000')::uuid
$$;

-- Keeps the window: partitions for what comes, no partition of ids that are older than the window. Whole partitions are
-- dropped; of the default one (ids of before the first partition) 1,000 rows a time are deleted. Returns what it did.
CREATE OR REPLACE FUNCTION {schema}.keep_window(p_window_s float8) RETURNS TABLE (made int, dropped int, deleted int)
LANGUAGE plpgsql AS $$
DECLARE
    width_ms bigint := greatest(1000, (p_window_s * 1000 / 8)::bigint);
    now_ms   bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    from_ms  bigint;
    part     record;
BEGIN
    made := 0; dropped := 0; deleted := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('{schema}.keep_window', 3)) THEN
        RETURN NEXT;  -- another process is at it
        RETURN;
    END IF;
    FOR n IN 0..2 LOOP
        from_ms := (now_ms / width_ms + n) * width_ms;
        IF to_regclass('{schema}.inbox_' || from_ms) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE {schema}.%I PARTITION OF {schema}.inbox FOR VALUES FROM (%L) TO (%L)',
                               'inbox_' || from_ms, {schema}.first_id(from_ms), {schema}.first_id(from_ms + width_ms));
                made := made + 1;
            EXCEPTION WHEN check_violation OR invalid_object_definition THEN
                NULL;  -- the default partition has ids of that time, or another width was in use: they stay there
            END;
        END IF;
    END LOOP;
    -- Nobody decides while the floor rises; `reserve` holds this lock shared.
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema}.inbox_window', 3));
    UPDATE {schema}.inbox_window SET floor = greatest(floor, {schema}.first_id(now_ms - (p_window_s * 1000)::bigint));
    FOR part IN
        SELECT c.oid::regclass AS name,
               (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([0-9a-f-]+)'\)$r$))[1]::uuid AS upper
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = '{schema}.inbox'::regclass AND c.relname <> 'inbox_default'
    LOOP
        IF part.upper <= (SELECT floor FROM {schema}.inbox_window) THEN
            EXECUTE format('DROP TABLE %s', part.name);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    DELETE FROM {schema}.inbox_default WHERE message_id = ANY (ARRAY(
        SELECT message_id FROM {schema}.inbox_default
         WHERE message_id < (SELECT floor FROM {schema}.inbox_window) LIMIT 1000));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN NEXT;
END
$$;

-- Every later meeting with a known id, written in the transaction that decided it: the exact figure of dedup hits.
CREATE TABLE IF NOT EXISTS {schema}.dedup_hits (
    seq              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id       uuid NOT NULL,
    decision         text NOT NULL CHECK (decision IN ('duplicate', 'resumed', 'conflict')),
    reason           text NOT NULL CHECK (reason IN ('redelivery', 'producer_duplicate', 'retry', 'redrive', 'replay')),
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

-- pending -> claimed (committed before the call) -> sent | uncertain. Back to pending only where the call surely was not
-- made or was refused before anything happened (no connection, 429).
CREATE TABLE IF NOT EXISTS {schema}.emails (
    message_id  uuid PRIMARY KEY,
    run         text NOT NULL,
    customer_id text NOT NULL,
    topic       text NOT NULL,
    partition   int NOT NULL,
    "offset"    bigint NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'claimed', 'sent', 'uncertain', 'refused')),
    claimed_by  uuid,                          -- the life that called, or was about to
    claimed_at  timestamptz,
    life        uuid NOT NULL,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS emails_open ON {schema}.emails (at) WHERE state IN ('pending', 'claimed');

-- The spans that emails belong to, of messages that have any: whoever sends the email may be another process.
CREATE TABLE IF NOT EXISTS {schema}.email_spans (
    message_id  uuid PRIMARY KEY,
    traceparent text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Decides about the records of a chunk in one round trip. The first p_firsts ones have different ids and are sorted by
-- them (two processes with the same ids in other orders would deadlock); the rest repeat ids of those. A function and
-- not one statement: an insert that waited for another process's needs a new snapshot to see what that one wrote.
-- p_charges: has a charge, so the record is pending until it is applied; without one all is done here.
CREATE OR REPLACE FUNCTION {schema}.reserve(
    p_firsts int, p_ids uuid[], p_digests bytea[], p_topics text[], p_partitions int[], p_offsets bigint[],
    p_runs text[], p_types text[], p_business_ids text[], p_customer_ids text[], p_amounts bigint[],
    p_currencies text[], p_charges bool[], p_emails bool[], p_vias text[], p_older bool, p_life uuid
) RETURNS TABLE (
    place bigint, decision text, first_topic text, first_partition int, first_offset bigint, first_digest bytea,
    first_attempt timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    new_ids  uuid[];
    floor_id uuid;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('{schema}.inbox_window', 3));
    SELECT w.floor INTO floor_id FROM {schema}.inbox_window w;
    WITH input AS (
        SELECT * FROM unnest(p_ids, p_digests, p_topics, p_partitions, p_offsets, p_runs, p_types, p_business_ids,
                             p_customer_ids, p_amounts, p_currencies, p_charges, p_emails) WITH ORDINALITY
            AS i (id, digest, topic, part, off, run, type, business_id, customer_id, amount, currency, charge, email, n)
         WHERE n <= p_firsts AND (p_older OR id >= floor_id)
    ), fresh AS (
        INSERT INTO {schema}.inbox (message_id, digest, state, topic, partition, "offset", life)
        SELECT i.id, i.digest, CASE WHEN i.charge THEN 'reserved' ELSE 'done' END, i.topic, i.part, i.off, p_life
          FROM input i ORDER BY i.id
            ON CONFLICT (message_id) DO NOTHING
        RETURNING message_id
    ), record AS (
        INSERT INTO {schema}.records (message_id, run, type, business_id, customer_id, amount_cents, currency, status,
                                      topic, partition, "offset", life)
        SELECT i.id, i.run, i.type, i.business_id, i.customer_id, i.amount, i.currency,
               CASE WHEN i.charge THEN 'pending' ELSE 'applied' END, i.topic, i.part, i.off, p_life
          FROM input i JOIN fresh f ON f.message_id = i.id
            ON CONFLICT (message_id) DO NOTHING  -- older than the window, and applied anyway (p_older)
    ), email AS (
        INSERT INTO {schema}.emails (message_id, run, customer_id, topic, partition, "offset", life)
        SELECT i.id, i.run, i.customer_id, i.topic, i.part, i.off, p_life
          FROM input i JOIN fresh f ON f.message_id = i.id WHERE i.email AND NOT i.charge
            ON CONFLICT (message_id) DO NOTHING
    )
    SELECT array_agg(f.message_id) INTO new_ids FROM fresh f;

    IF coalesce(cardinality(new_ids), 0) = cardinality(p_ids) THEN
        RETURN;  -- the usual case: nothing here was met before
    END IF;
    RETURN QUERY
    WITH met AS (
        SELECT i.n, i.id, i.topic, i.part, i.off, i.via, k.topic AS k_topic, k.partition AS k_part, k."offset" AS k_off,
               k.digest AS k_digest, k.first_attempt AS k_attempt,
               CASE WHEN k.message_id IS NULL THEN 'older'
                    WHEN k.digest <> i.digest THEN 'conflict'
                    WHEN k.state IN ('done', 'discarded') OR i.n > p_firsts THEN 'duplicate'
                    ELSE 'resumed' END AS decided
          FROM unnest(p_ids, p_digests, p_topics, p_partitions, p_offsets, p_vias) WITH ORDINALITY
                   AS i (id, digest, topic, part, off, via, n)
          LEFT JOIN {schema}.inbox k ON k.message_id = i.id
          LEFT JOIN unnest(new_ids) AS f (id) ON f.id = i.id
         WHERE f.id IS NULL OR i.n > p_firsts
    ), logged AS (
        INSERT INTO {schema}.dedup_hits (message_id, decision, reason, topic, partition, "offset", first_topic,
                                         first_partition, first_offset, life)
        SELECT m.id, m.decided,
               CASE WHEN m.via <> '' THEN m.via
                    WHEN (m.topic, m.part, m.off) = (m.k_topic, m.k_part, m.k_off) THEN 'redelivery'
                    ELSE 'producer_duplicate' END,
               m.topic, m.part, m.off, m.k_topic, m.k_part, m.k_off, p_life
          FROM met m WHERE m.decided <> 'older' ORDER BY m.n
    )
    SELECT m.n, m.decided, m.k_topic, m.k_part, m.k_off, m.k_digest, m.k_attempt FROM met m ORDER BY m.n;
END
$$;
