-- name: tax_table
SELECT version, document, set_by, reason, set_at FROM market.tax_tables ORDER BY version DESC LIMIT 1

-- name: set_tax_table
-- Only on the version that its author has seen.
WITH base AS MATERIALIZED (
    SELECT version FROM market.tax_tables ORDER BY version DESC LIMIT 1
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb
    FROM base WHERE version = %(base_version)s
    ON CONFLICT DO NOTHING
    RETURNING subject
), noted AS (
    INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
    SELECT %(action_id)s, %(principal_id)s, 'tax_table.set', subject, %(reason)s,
           jsonb_build_object('base_version', %(base_version)s::int)
    FROM claimed
)
INSERT INTO market.tax_tables (version, document, set_by, reason)
SELECT %(base_version)s + 1, %(document)s::jsonb, %(principal_id)s, %(reason)s FROM claimed
RETURNING version
