-- name: principal
SELECT role, principal_id FROM market.access_tokens
WHERE token_sha256 = %(token_sha256)s AND revoked_at IS NULL

-- name: issue_token
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
)
INSERT INTO market.access_tokens (token_sha256, role, principal_id, issued_by)
SELECT %(token_sha256)s, %(role)s, %(holder_id)s, %(principal_id)s FROM claimed
RETURNING role

-- name: register_token
INSERT INTO market.access_tokens (token_sha256, role, principal_id, issued_by)
VALUES (%(token_sha256)s, %(role)s, %(holder_id)s, 'settings')
ON CONFLICT DO NOTHING
