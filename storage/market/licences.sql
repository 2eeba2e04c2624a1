-- name: licence
SELECT licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, status, key_id, envelope, issued_at
FROM market.licences WHERE licence_id = %(licence_id)s

-- name: licence_statuses
SELECT licence_id, status FROM market.licences WHERE licence_id = ANY(%(licence_ids)s)

-- name: licence_recorded_at
SELECT e.at FROM market.licences l JOIN market.order_events e ON e.order_id = l.order_id AND e.kind = 'order.licensed'
WHERE l.licence_id = %(licence_id)s AND l.envelope = %(envelope)s
ORDER BY e.seq LIMIT 1

-- name: revoked_licences
SELECT licence_id FROM market.licences WHERE status = 'revoked' ORDER BY licence_id LIMIT %(limit)s

-- name: deliveries_of_order
SELECT d.delivery_id, d.line_no, d.release_id, l.licence_id, d.mode, d.recipient, r.bundle_name, d.header,
       d.manifest, r.payload_key, r.payload_version, r.payload_bytes, r.payload_sha256, l.envelope, d.key_expires_at
FROM market.deliveries d
JOIN market.releases r USING (release_id)
JOIN market.licences l ON l.order_id = d.order_id AND l.line_no = d.line_no
WHERE d.order_id = %(order_id)s
ORDER BY d.line_no

-- name: delivery
SELECT order_id, buyer_id FROM market.deliveries WHERE delivery_id = %(delivery_id)s
