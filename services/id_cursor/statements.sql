-- The statements of the publisher arm `id_cursor`.

-- next: rows above the highest position that was published.
SELECT position, message_id, key, type, payload, headers, created_at
FROM outbox WHERE position > (SELECT position FROM progress) ORDER BY position LIMIT $1;

-- remember: the highest position that was published.
UPDATE progress SET position = $1;

-- set_aside: keep a row that can never be published, with the reason.
INSERT INTO outbox_set_aside (position, message_id, shard, xid, key, type, payload, headers, created_at, reason)
SELECT position, message_id, shard, xid, key, type, payload, headers, created_at, $2 FROM outbox WHERE position = $1
ON CONFLICT DO NOTHING;
