-- Proposals and governed versions. Everything is written by functions of the database (migration 0005), which
-- decide under their lock, claim the idempotency key, record the operator's action (invariant I12) and return
-- what is answered, or no value when the key was used before.

-- name: propose
SELECT market.propose_change(
    %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(action_id)s, %(response)s::jsonb, %(subject)s,
    %(kind)s, %(base_version)s, %(previous_sha256)s, %(document)s, %(document_sha256)s, %(expires_at)s, %(key_id)s,
    %(reason)s, %(envelope)s)

-- name: vote
SELECT market.vote_on_proposal(
    %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(action_id)s, %(response)s::jsonb, %(subject)s,
    %(decision)s, %(key_id)s, %(reason)s, %(envelope)s)

-- name: withdraw
SELECT market.withdraw_proposal(
    %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(action_id)s, %(response)s::jsonb, %(subject)s,
    %(key_id)s, %(reason)s)

-- name: proposals
-- Newest first, below the id; of some ids, or in one state, where asked. `whole` false leaves documents out.
SELECT p.proposal_id, p.kind, p.base_version, p.previous_sha256, p.document_sha256, p.expires_at,
       CASE WHEN %(whole)s THEN p.document ELSE '' END, p.reason, p.principal_id, p.key_id, p.envelope,
       p.operators_version, (o.document::jsonb ->> 'threshold')::int, p.created_at, s.status, p.closed_at, v.votes
FROM market.proposals AS p
JOIN market.governed_versions AS o ON o.kind = 'operators' AND o.version = p.operators_version
CROSS JOIN LATERAL (
    SELECT CASE WHEN p.status = 'open' AND p.expires_at <= now() THEN 'expired' ELSE p.status END AS status
) AS s
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_array(decision, key_id, principal_id, reason, envelope, at)
                              ORDER BY at, key_id), '[]') AS votes
    FROM market.proposal_votes AS w WHERE w.proposal_id = p.proposal_id
) AS v
WHERE p.proposal_id < %(before)s COLLATE "C"
  AND (%(ids)s::text[] IS NULL OR p.proposal_id = ANY (%(ids)s::text[]))
  AND (%(status)s::text IS NULL OR s.status = %(status)s)
ORDER BY p.proposal_id DESC LIMIT %(limit)s

-- name: database_time
SELECT clock_timestamp()

-- name: current
SELECT DISTINCT ON (kind) kind, version, document, document_sha256, previous_sha256, proposal_id, operators_version,
       applied_at
FROM market.governed_versions ORDER BY kind, version DESC

-- name: versions
-- A kind's, newest first.
SELECT kind, version, document, document_sha256, previous_sha256, proposal_id, operators_version, applied_at
FROM market.governed_versions WHERE kind = %(kind)s AND version < %(before)s
ORDER BY version DESC LIMIT %(limit)s

-- name: chain
-- All kinds', in the order of application.
SELECT kind, version, document, document_sha256, previous_sha256, proposal_id, operators_version, applied_at, position
FROM market.governed_versions WHERE position > %(after)s
ORDER BY position LIMIT %(limit)s

-- name: init_operators
-- For the owner alone: the serving role may not insert.
WITH first AS (
    INSERT INTO market.governed_versions (kind, version, document, document_sha256)
    SELECT 'operators', 1, %(document)s, %(document_sha256)s
    WHERE NOT EXISTS (SELECT FROM market.governed_versions WHERE kind = 'operators')
    RETURNING document_sha256
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'operators.init', 'operators', %(reason)s,
       jsonb_build_object('document_sha256', document_sha256)
FROM first
RETURNING action_id
