-- Of the dual writes, applied last: nothing is enqueued, the handler publishes.
CREATE OR REPLACE FUNCTION enqueue(
    p_message_id uuid, p_shard smallint, p_customer_id text, p_type text, p_payload bytea, p_headers jsonb
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END
$$;
