-- name: licence
SELECT document_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, standing, key_id, envelope, issued_at,
       licence_id, serial
FROM market.licence_documents WHERE document_id = %(licence_id)s

-- name: licence_standings
-- With the days of grace in force, which decide with them: one row, of however many licences.
SELECT coalesce((SELECT (document::json ->> 'grace_days')::int FROM market.governed_versions
                 WHERE kind = 'licence_model' ORDER BY version DESC LIMIT 1), 0),
       ARRAY(SELECT ARRAY[document_id, standing] FROM market.licence_documents
             WHERE document_id = ANY(%(licence_ids)s))

-- name: licence_recorded_at
-- A licence's first document entered the record with its order's event, every later one with its own row.
SELECT e.at FROM market.licences l JOIN market.order_events e ON e.order_id = l.order_id AND e.kind = 'order.licensed'
WHERE l.licence_id = %(licence_id)s AND l.envelope = %(envelope)s
UNION ALL
SELECT recorded_at FROM market.licence_successors WHERE document_id = %(licence_id)s AND envelope = %(envelope)s
ORDER BY at LIMIT 1

-- name: list_version
SELECT version FROM market.revocation_list

-- name: revocation_list
-- One statement, so one snapshot: the version that is seen is that of exactly these ids.
SELECT version,
       coalesce((SELECT (document::json ->> 'grace_days')::int FROM market.governed_versions
                 WHERE kind = 'licence_model' ORDER BY version DESC LIMIT 1), 0),
       ARRAY(SELECT id FROM (
                 SELECT licence_id COLLATE "C" AS id FROM market.licences WHERE status = 'revoked'
                 UNION SELECT supersedes FROM market.licence_successors
                 UNION SELECT s.document_id FROM market.licences AS l
                       JOIN market.licence_successors AS s USING (licence_id) WHERE l.status = 'revoked'
             ) AS revoked ORDER BY id COLLATE "C" LIMIT %(limit)s),
       ARRAY(SELECT d.id FROM (
                 SELECT licence_id AS id FROM market.licences WHERE status = 'suspended'
                 UNION ALL SELECT s.document_id FROM market.licences AS l
                       JOIN market.licence_successors AS s USING (licence_id) WHERE l.status = 'suspended'
             ) AS d
             WHERE NOT EXISTS (SELECT FROM market.licence_successors AS n WHERE n.supersedes = d.id)
             ORDER BY d.id COLLATE "C" LIMIT %(limit)s)
FROM market.revocation_list

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
