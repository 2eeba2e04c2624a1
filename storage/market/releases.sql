-- name: heads
-- The newest published release of each channel.
SELECT DISTINCT ON (channel) channel, release_id, version, bundle_name, bundle_sha256, bundle_bytes, licence_days,
       published_at
FROM market.releases WHERE sku_id = %(sku_id)s AND state = 'published'
ORDER BY channel, published_at DESC, release_id DESC

-- name: yank
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), yanked AS (
    UPDATE market.releases
    SET state = 'yanked', yanked_at = %(at)s, yanked_by = %(principal_id)s, yank_reason = %(reason)s
    FROM claimed WHERE release_id = subject AND state = 'published'
)
SELECT subject FROM claimed

-- name: seller_keys_of
SELECT key_id, state, registered_at, revoked_at, revoke_reason FROM market.seller_keys
WHERE seller_id = %(seller_id)s ORDER BY registered_at DESC, key_id LIMIT %(limit)s

-- name: revoke_seller_key
-- Retired may turn out to be compromised; nothing becomes active again.
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), revoked AS (
    UPDATE market.seller_keys
    SET state = %(state)s, revoked_at = coalesce(revoked_at, %(at)s), revoked_by = %(principal_id)s,
        revoke_reason = %(reason)s
    FROM claimed
    WHERE key_id = subject AND (state = 'active' OR (state = 'retired' AND %(state)s = 'compromised'))
)
SELECT subject FROM claimed

-- name: seller_key_state
SELECT key_id, state, registered_at, revoked_at, revoke_reason FROM market.seller_keys
WHERE key_id = %(key_id)s AND seller_id = %(seller_id)s

-- name: begin_upload
-- Of two who begin at once one wins, and the other is told of its upload.
INSERT INTO market.release_uploads (release_id, upload_id, bundle_bytes, part_bytes)
SELECT release_id, %(upload_id)s, %(bundle_bytes)s, %(part_bytes)s FROM market.releases
WHERE release_id = %(release_id)s AND state = 'draft'
ON CONFLICT (release_id) DO NOTHING

-- name: upload
SELECT upload_id, bundle_bytes FROM market.release_uploads WHERE release_id = %(release_id)s

-- name: forget_upload
DELETE FROM market.release_uploads WHERE release_id = %(release_id)s AND upload_id = %(upload_id)s

-- name: complete_upload
WITH completed AS (
    UPDATE market.releases SET upload_version = %(version_id)s
    WHERE release_id = %(release_id)s AND state = 'draft'
)
DELETE FROM market.release_uploads WHERE release_id = %(release_id)s AND upload_id = %(upload_id)s

-- name: abandoned_uploads
SELECT u.release_id, u.upload_id, r.upload_key FROM market.release_uploads u JOIN market.releases r USING (release_id)
WHERE u.begun_at < now() - %(kept_s)s * interval '1 second' ORDER BY u.begun_at LIMIT %(limit)s

-- name: expect_bundle
INSERT INTO market.bundle_uploads (release_id, drop_after)
VALUES (%(release_id)s, now() + %(kept_s)s * interval '1 second')
ON CONFLICT (release_id) DO UPDATE SET drop_after = excluded.drop_after

-- name: spent_bundles
SELECT b.release_id, r.upload_key FROM market.bundle_uploads b JOIN market.releases r USING (release_id)
WHERE b.drop_after <= now() ORDER BY b.drop_after LIMIT %(limit)s

-- name: forget_bundle
DELETE FROM market.bundle_uploads WHERE release_id = %(release_id)s AND drop_after <= now()
