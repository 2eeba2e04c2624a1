-- name: list_published
-- Newest listings first; a SKU without a published release is not on sale and not listed.
SELECT s.sku_id, s.name, s.title, s.description, s.seller_id, s.created_at,
       (SELECT jsonb_object_agg(p.currency, p.amount_minor) FROM market.sku_prices p WHERE p.sku_id = s.sku_id),
       r.release_id, r.version, r.bundle_name, r.bundle_sha256, r.bundle_bytes, r.licence_days, r.published_at,
       s.price_version, s.tax_category
FROM market.skus s
CROSS JOIN LATERAL (
    SELECT * FROM market.releases WHERE sku_id = s.sku_id AND channel = 'stable' AND state = 'published'
    ORDER BY published_at DESC, release_id DESC LIMIT 1
) AS r
WHERE s.sku_id < %(before)s
ORDER BY s.sku_id DESC LIMIT %(limit)s

-- name: skus
-- By id or by name: names hold no underscore, ids always do.
SELECT s.sku_id, s.name, s.title, s.description, s.seller_id, s.created_at,
       (SELECT jsonb_object_agg(p.currency, p.amount_minor) FROM market.sku_prices p WHERE p.sku_id = s.sku_id),
       r.release_id, r.version, r.bundle_name, r.bundle_sha256, r.bundle_bytes, r.licence_days, r.published_at,
       s.price_version, s.tax_category
FROM market.skus s
LEFT JOIN LATERAL (
    SELECT * FROM market.releases WHERE sku_id = s.sku_id AND channel = %(channel)s AND state = 'published'
    ORDER BY published_at DESC, release_id DESC LIMIT 1
) AS r ON true
WHERE s.sku_id = ANY(%(names)s::text[]) OR s.name = ANY(%(names)s::text[])

-- name: create_sku
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), listed AS (
    INSERT INTO market.skus (sku_id, seller_id, name, title, description, created_at, tax_category)
    SELECT subject, %(seller_id)s, %(name)s, %(title)s, %(description)s, %(created_at)s, %(tax_category)s
    FROM claimed
    RETURNING sku_id
), priced AS (
    INSERT INTO market.sku_prices (sku_id, currency, amount_minor)
    SELECT sku_id, p.currency, p.amount_minor
    FROM listed, unnest(%(currencies)s::text[], %(amounts_minor)s::bigint[]) AS p (currency, amount_minor)
), recorded AS (
    INSERT INTO market.price_lists (sku_id, version, prices, set_by)
    SELECT sku_id, 1, (SELECT jsonb_object_agg(p.currency, p.amount_minor)
                       FROM unnest(%(currencies)s::text[], %(amounts_minor)s::bigint[])
                           AS p (currency, amount_minor)), %(seller_id)s
    FROM listed
)
SELECT sku_id FROM listed

-- name: set_prices
-- Only on the list that its author has seen. What is no more sold in goes from the list in force.
WITH seen AS MATERIALIZED (
    SELECT sku_id FROM market.skus
    WHERE sku_id = %(subject)s AND price_version = %(price_version)s - 1 FOR NO KEY UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, sku_id, %(response)s::jsonb FROM seen
    ON CONFLICT DO NOTHING
    RETURNING subject
), listed AS (
    UPDATE market.skus SET price_version = %(price_version)s FROM claimed WHERE sku_id = subject
    RETURNING sku_id
), gone AS (
    DELETE FROM market.sku_prices AS p USING listed
    WHERE p.sku_id = listed.sku_id AND p.currency <> ALL(%(currencies)s::text[])
), priced AS (
    INSERT INTO market.sku_prices (sku_id, currency, amount_minor)
    SELECT sku_id, p.currency, p.amount_minor
    FROM listed, unnest(%(currencies)s::text[], %(amounts_minor)s::bigint[]) AS p (currency, amount_minor)
    ON CONFLICT (sku_id, currency) DO UPDATE SET amount_minor = excluded.amount_minor
), recorded AS (
    INSERT INTO market.price_lists (sku_id, version, prices, set_by)
    SELECT sku_id, %(price_version)s, (SELECT jsonb_object_agg(p.currency, p.amount_minor)
                                       FROM unnest(%(currencies)s::text[], %(amounts_minor)s::bigint[])
                                           AS p (currency, amount_minor)), %(principal_id)s
    FROM listed
)
SELECT sku_id FROM listed

-- name: price_lists
SELECT version, prices, set_by, set_at FROM market.price_lists
WHERE sku_id = %(sku_id)s AND version < %(before)s
ORDER BY version DESC LIMIT %(limit)s

-- name: register_seller_key
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
)
INSERT INTO market.seller_keys (key_id, seller_id, public_key)
SELECT subject, %(seller_id)s, %(public_key)s FROM claimed
RETURNING key_id

-- name: seller_key
SELECT seller_id, state FROM market.seller_keys WHERE key_id = %(key_id)s

-- name: seller_keys
SELECT key_id, public_key FROM market.seller_keys
WHERE seller_id = %(seller_id)s AND state = 'active'
ORDER BY registered_at DESC LIMIT %(limit)s

-- name: draft_release
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
)
INSERT INTO market.releases (release_id, sku_id, version, channel, state, bundle_name, upload_key, created_at)
SELECT subject, %(sku_id)s, %(version)s, %(channel)s, 'draft', %(bundle_name)s, %(upload_key)s, %(created_at)s
FROM claimed
RETURNING release_id

-- name: release
SELECT r.release_id, r.sku_id, s.name, s.seller_id, r.version, r.state, r.bundle_name, r.upload_key, r.manifest,
       r.countersignature, r.minisig, r.bundle_sha256, r.bundle_bytes, r.payload_sha256, r.payload_bytes,
       r.published_at, r.channel, r.upload_version, r.yanked_at, r.yank_reason
FROM market.releases r JOIN market.skus s USING (sku_id)
WHERE r.release_id = %(release_id)s

-- name: channel_head
SELECT version FROM market.releases
WHERE sku_id = %(sku_id)s AND channel = %(channel)s AND state <> 'draft'
ORDER BY published_at DESC, release_id DESC LIMIT 1

-- name: revoked_seller_keys
SELECT key_id, public_key FROM market.seller_keys
WHERE seller_id = %(seller_id)s AND state <> 'active'
ORDER BY revoked_at DESC NULLS LAST LIMIT %(limit)s

-- name: licence_model
SELECT document FROM market.governed_versions WHERE kind = 'licence_model' ORDER BY version DESC LIMIT 1
