-- name: list_published
-- Newest listings first; a SKU without a published release is not on sale and not listed.
SELECT s.sku_id, s.name, s.title, s.description, s.seller_id, s.created_at,
       (SELECT jsonb_object_agg(p.currency, p.amount_minor) FROM market.sku_prices p WHERE p.sku_id = s.sku_id),
       r.release_id, r.version, r.bundle_name, r.bundle_sha256, r.bundle_bytes, r.licence_days, r.published_at
FROM market.skus s
CROSS JOIN LATERAL (
    SELECT * FROM market.releases WHERE sku_id = s.sku_id AND state = 'published'
    ORDER BY published_at DESC, release_id DESC LIMIT 1
) AS r
WHERE s.sku_id < %(before)s
ORDER BY s.sku_id DESC LIMIT %(limit)s

-- name: skus
-- By id or by name: names hold no underscore, ids always do.
SELECT s.sku_id, s.name, s.title, s.description, s.seller_id, s.created_at,
       (SELECT jsonb_object_agg(p.currency, p.amount_minor) FROM market.sku_prices p WHERE p.sku_id = s.sku_id),
       r.release_id, r.version, r.bundle_name, r.bundle_sha256, r.bundle_bytes, r.licence_days, r.published_at
FROM market.skus s
LEFT JOIN LATERAL (
    SELECT * FROM market.releases WHERE sku_id = s.sku_id AND state = 'published'
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
    INSERT INTO market.skus (sku_id, seller_id, name, title, description, created_at)
    SELECT subject, %(seller_id)s, %(name)s, %(title)s, %(description)s, %(created_at)s FROM claimed
    RETURNING sku_id
), priced AS (
    INSERT INTO market.sku_prices (sku_id, currency, amount_minor)
    SELECT sku_id, p.currency, p.amount_minor
    FROM listed, unnest(%(currencies)s::text[], %(amounts_minor)s::bigint[]) AS p (currency, amount_minor)
)
SELECT sku_id FROM listed

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
INSERT INTO market.releases (release_id, sku_id, version, state, bundle_name, upload_key, created_at)
SELECT subject, %(sku_id)s, %(version)s, 'draft', %(bundle_name)s, %(upload_key)s, %(created_at)s FROM claimed
RETURNING release_id

-- name: release
SELECT r.release_id, r.sku_id, s.name, s.seller_id, r.version, r.state, r.bundle_name, r.upload_key, r.manifest,
       r.countersignature, r.minisig, r.bundle_sha256, r.bundle_bytes, r.payload_sha256, r.payload_bytes,
       r.published_at
FROM market.releases r JOIN market.skus s USING (sku_id)
WHERE r.release_id = %(release_id)s

-- name: publish_release
-- Only a draft is published, and it never changes afterwards.
UPDATE market.releases
SET state = 'published', manifest = %(manifest)s, countersignature = %(countersignature)s,
    minisig = %(minisig)s, bundle_sha256 = %(bundle_sha256)s, bundle_bytes = %(bundle_bytes)s,
    licence_days = %(licence_days)s, licence_activation = %(licence_activation)s, payload_key = %(payload_key)s, payload_version = %(payload_version)s,
    payload_sha256 = %(payload_sha256)s, payload_bytes = %(payload_bytes)s,
    wrapped_file_key = %(wrapped_file_key)s, published_at = %(published_at)s
WHERE release_id = %(release_id)s AND state = 'draft'
RETURNING release_id

-- name: licence_model
SELECT document FROM market.governed_versions WHERE kind = 'licence_model' ORDER BY version DESC LIMIT 1
