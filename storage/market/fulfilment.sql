-- name: release_material
SELECT release_id, bundle_name, bundle_sha256, bundle_bytes, payload_sha256, payload_bytes, wrapped_file_key,
       licence_activation
FROM market.releases
WHERE release_id = %(release_id)s AND state <> 'draft'

-- name: delivery_identity
SELECT wrapped_identity, key_expires_at, key_expires_at <= now()
FROM market.deliveries
WHERE order_id = %(order_id)s AND delivery_id = %(delivery_id)s
