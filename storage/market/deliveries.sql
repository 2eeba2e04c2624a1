-- name: take_links
-- The window's row is locked by the insert and judged in its newest version, so of any number of callers at
-- once exactly the bound is let through. Ids come sorted: two callers never wait for each other.
WITH taken AS (
    INSERT INTO market.delivery_link_windows AS w (delivery_id, kind, opened_at, links)
    SELECT delivery_id, %(kind)s, now(), 1 FROM unnest(%(delivery_ids)s::text[]) AS d (delivery_id)
    ON CONFLICT (delivery_id, kind) DO UPDATE SET
        opened_at = CASE WHEN w.opened_at <= now() - %(window_s)s * interval '1 second' THEN now()
                         ELSE w.opened_at END,
        links = CASE WHEN w.opened_at <= now() - %(window_s)s * interval '1 second' THEN 1
                     ELSE w.links + 1 END
    WHERE w.links < %(links_max)s OR w.opened_at <= now() - %(window_s)s * interval '1 second'
    RETURNING delivery_id
)
INSERT INTO market.delivery_links (delivery_id, order_id, issued_to, kind, expires_at)
SELECT delivery_id, %(order_id)s, %(issued_to)s, %(kind)s, %(expires_at)s FROM taken
RETURNING delivery_id

-- name: window_opens
SELECT ceil(extract(epoch FROM max(opened_at) + %(window_s)s * interval '1 second' - now()))::int
FROM market.delivery_link_windows
WHERE delivery_id = ANY(%(delivery_ids)s::text[]) AND kind = %(kind)s AND links >= %(links_max)s

-- name: links_of_delivery
SELECT position, delivery_id, order_id, issued_to, kind, issued_at, expires_at FROM market.delivery_links
WHERE delivery_id = %(delivery_id)s ORDER BY position DESC LIMIT %(limit)s

-- name: keep_joined
-- Asked for again: it stays. What has expired may be half deleted, so it never comes back.
UPDATE market.joined_deliveries SET expires_at = now() + %(kept_s)s * interval '1 second'
WHERE object_key = (
    SELECT object_key FROM market.joined_deliveries
    WHERE delivery_id = %(delivery_id)s AND version_id IS NOT NULL AND expires_at > now()
    ORDER BY expires_at DESC, object_key LIMIT 1)
RETURNING object_key, version_id, bytes

-- name: begin_joined
INSERT INTO market.joined_deliveries (delivery_id, object_key, expires_at)
VALUES (%(delivery_id)s, %(object_key)s, now() + %(kept_s)s * interval '1 second')

-- name: record_joined
UPDATE market.joined_deliveries SET version_id = %(version_id)s, bytes = %(bytes)s
WHERE object_key = %(object_key)s

-- name: expired_joined
SELECT object_key FROM market.joined_deliveries WHERE expires_at <= now() ORDER BY expires_at LIMIT %(limit)s

-- name: forget_joined
DELETE FROM market.joined_deliveries WHERE object_key = %(object_key)s AND expires_at <= now()
