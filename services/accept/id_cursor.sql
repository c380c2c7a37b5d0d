-- Of the publisher arm `id_cursor`: the highest position that it has published.
CREATE TABLE IF NOT EXISTS progress (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL DEFAULT 0
);
INSERT INTO progress DEFAULT VALUES ON CONFLICT DO NOTHING;
