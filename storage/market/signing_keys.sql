-- name: register_key
INSERT INTO market.signing_keys (key_id, public_key, state, not_before)
SELECT %(key_id)s, %(public_key)s, %(state)s, %(not_before)s
WHERE NOT EXISTS (SELECT FROM market.signing_keys)
ON CONFLICT (key_id) DO NOTHING

-- name: signing_keys
SELECT key_id, public_key, state, not_before, compromised_at, algorithm FROM market.signing_keys
ORDER BY not_before DESC, key_id LIMIT %(limit)s

-- name: key_lists_from
-- From the row that was read last, that one too, so that a reader sees that it is still there.
SELECT l.position, l.envelope, r.public_key, r.position
FROM market.key_lists AS l JOIN market.signing_roots AS r USING (root_id)
WHERE l.position >= %(position)s ORDER BY l.position LIMIT %(limit)s

-- name: newest_root
SELECT root_id, public_key FROM market.signing_roots ORDER BY position DESC LIMIT 1

-- name: add_root
INSERT INTO market.signing_roots (root_id, public_key) VALUES (%(root_id)s, %(public_key)s)
ON CONFLICT (root_id) DO NOTHING

-- name: publish_list
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
)
INSERT INTO market.key_lists (position, version, follows, root_id, envelope, expires_at, published_by)
SELECT %(position)s, %(version)s, %(follows)s, %(root_id)s, %(envelope)s, %(expires_at)s, %(principal_id)s FROM claimed
RETURNING version
