-- Database `auditor` on the ledger server: what the auditor has found, for who may look and not touch (role `reader`).

-- Every message that was ever found lost, duplicated or unexpected while the lab ran. Rows are never removed: the
-- counters are made from them, and a counter only rises.
CREATE TABLE IF NOT EXISTS findings (
    hop        text NOT NULL,
    arm        text NOT NULL,
    effect     text NOT NULL,
    state      text NOT NULL CHECK (state IN ('lost', 'duplicated', 'unexpected')),
    message    text NOT NULL,                  -- the message id; of a record without one its coordinates; a key on accept
    many       int NOT NULL,                   -- duplicated: extra applications; otherwise 1
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    gone_at    timestamptz,                    -- it was found after all
    taken_back int NOT NULL DEFAULT 0,         -- how often
    trace_id   text,
    at         text[] NOT NULL DEFAULT '{}',   -- topic/partition/offset of each copy
    last_seen  text,
    attempts   int,
    faults     jsonb NOT NULL DEFAULT '[]',    -- windows that overlap its life
    why        text,                           -- null: not looked into yet; empty: nothing says it
    PRIMARY KEY (hop, arm, effect, state, message)
);
CREATE INDEX IF NOT EXISTS findings_found ON findings (found_at);

-- The last pass, a row each; columns as in `lab audit --json`.
CREATE TABLE IF NOT EXISTS rows (
    hop text NOT NULL, arm text NOT NULL, effect text NOT NULL, at timestamptz NOT NULL,
    expected bigint NOT NULL, applied_once bigint NOT NULL, duplicated bigint NOT NULL,
    extra_applications bigint NOT NULL, lost bigint NOT NULL, unexpected bigint NOT NULL, waiting bigint NOT NULL,
    dead_lettered bigint NOT NULL, discarded bigint NOT NULL, uncertain bigint NOT NULL, unexplained bigint NOT NULL,
    also_held bigint NOT NULL, inherited bigint NOT NULL,
    PRIMARY KEY (hop, arm, effect)
);

-- Final audits that were asked for, whole.
CREATE TABLE IF NOT EXISTS audits (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    run      text,                             -- null: all runs
    closes   boolean NOT NULL,
    document jsonb NOT NULL
);

-- What is promised of each row.
CREATE TABLE IF NOT EXISTS promises (
    hop text NOT NULL, arm text NOT NULL, effect text NOT NULL, promise text NOT NULL,
    PRIMARY KEY (hop, arm, effect, promise)
);

-- Verdicts as the tables of Grafana and the console show them: a broken promise first.
CREATE OR REPLACE VIEW verdicts AS
SELECT r.*, coalesce(p.promises, '') AS promises,
       CASE WHEN p.promises IS NULL THEN NULL
            WHEN r.unexpected > 0 OR r.unexplained > 0
                 OR (p.promises LIKE '%no_loss%' AND r.lost > 0)
                 OR (p.promises LIKE '%no_duplicate%' AND r.duplicated > 0) THEN 'broken'
            ELSE 'kept so far' END AS verdict
  FROM rows r
  LEFT JOIN (SELECT hop, arm, effect, string_agg(promise, ', ' ORDER BY promise) AS promises
               FROM promises GROUP BY hop, arm, effect) p USING (hop, arm, effect);

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader') THEN
        CREATE ROLE reader LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- another provisioning was quicker
END
$$;
ALTER ROLE reader SET default_transaction_read_only = on;
GRANT USAGE ON SCHEMA public TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
