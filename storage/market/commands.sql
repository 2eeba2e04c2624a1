-- name: find_command
SELECT request_digest, subject, response FROM market.commands
WHERE principal_id = %(principal_id)s AND idempotency_key = %(idempotency_key)s

-- name: claim_command
INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
ON CONFLICT DO NOTHING
RETURNING subject
