-- name: retire_attempt
-- One that died, unless what it has sealed is what is wanted.
UPDATE market.publication_attempts SET current = false
WHERE release_id = %(release_id)s AND current AND lease_until <= now()
  AND NOT (payload_version IS NOT NULL AND statement_sha256 = %(statement_sha256)s
           AND upload_version = %(upload_version)s)

-- name: begin_attempt
INSERT INTO market.publication_attempts (payload_key, release_id, statement_sha256, upload_version, lease_until)
SELECT %(payload_key)s, release_id, %(statement_sha256)s, %(upload_version)s,
       now() + %(lease_s)s * interval '1 second'
FROM market.releases WHERE release_id = %(release_id)s AND state = 'draft'
ON CONFLICT (release_id) WHERE current DO NOTHING

-- name: current_attempt
SELECT payload_key, statement_sha256, upload_version, payload_version, payload_sha256, payload_bytes, bundle_sha256,
       bundle_bytes, countersignature, minisig, wrapped_file_key
FROM market.publication_attempts WHERE release_id = %(release_id)s AND current

-- name: extend_attempt
UPDATE market.publication_attempts SET lease_until = now() + %(lease_s)s * interval '1 second'
WHERE payload_key = %(payload_key)s AND current

-- name: finish_attempt
UPDATE market.publication_attempts
SET payload_version = %(payload_version)s, payload_sha256 = %(payload_sha256)s, payload_bytes = %(payload_bytes)s,
    bundle_sha256 = %(bundle_sha256)s, bundle_bytes = %(bundle_bytes)s, countersignature = %(countersignature)s,
    minisig = %(minisig)s, wrapped_file_key = %(wrapped_file_key)s
WHERE payload_key = %(payload_key)s AND current

-- name: abandon_attempt
UPDATE market.publication_attempts SET current = false
WHERE payload_key = %(payload_key)s AND payload_version IS NULL

-- name: release_order
-- Publications of one SKU go one after the other from here on, so that versions are compared with what is there.
SELECT pg_advisory_xact_lock(hashtextextended(sku_id, 14)) FROM market.releases WHERE release_id = %(release_id)s

-- name: channel_position
-- The version to be published, its channel, and the newest version ever published there.
SELECT r.version, r.channel, (
    SELECT n.version FROM market.releases n
    WHERE n.sku_id = r.sku_id AND n.channel = r.channel AND n.state <> 'draft'
    ORDER BY n.published_at DESC, n.release_id DESC LIMIT 1)
FROM market.releases r WHERE r.release_id = %(release_id)s AND r.state = 'draft'

-- name: active_key
-- Locked until the end: a revocation is before the publication, which is refused, or after it.
SELECT key_id FROM market.seller_keys WHERE key_id = %(key_id)s AND state = 'active' FOR SHARE

-- name: end_attempt
DELETE FROM market.publication_attempts
WHERE payload_key = %(payload_key)s AND release_id = %(release_id)s AND current
RETURNING payload_key

-- name: publish_release
-- Only a draft is published, and it never changes afterwards. Replicas' clocks differ, and what is newest is told by time:
-- so it is later than whatever its channel had.
UPDATE market.releases AS r
SET state = 'published', manifest = %(manifest)s, countersignature = %(countersignature)s,
    minisig = %(minisig)s, bundle_sha256 = %(bundle_sha256)s, bundle_bytes = %(bundle_bytes)s,
    licence_days = %(licence_days)s, licence_activation = %(licence_activation)s, payload_key = %(payload_key)s,
    payload_version = %(payload_version)s, payload_sha256 = %(payload_sha256)s, payload_bytes = %(payload_bytes)s,
    wrapped_file_key = %(wrapped_file_key)s,
    published_at = greatest(%(published_at)s, (
        SELECT max(n.published_at) + interval '1 microsecond' FROM market.releases n
        WHERE n.sku_id = r.sku_id AND n.channel = r.channel AND n.state <> 'draft'))
WHERE release_id = %(release_id)s AND state = 'draft'
RETURNING release_id

-- name: take_strays
-- From here on nobody publishes what they sealed. One that cannot be deleted is tried again that much later.
UPDATE market.publication_attempts SET current = false, lease_until = now()
WHERE payload_key IN (
    SELECT payload_key FROM market.publication_attempts
    WHERE lease_until < now() - %(kept_s)s * interval '1 second' ORDER BY lease_until LIMIT %(limit)s)
RETURNING payload_key

-- name: forget_stray
DELETE FROM market.publication_attempts WHERE payload_key = %(payload_key)s AND NOT current
