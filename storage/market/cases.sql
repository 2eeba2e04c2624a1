-- Reconciliation cases as operators see them. A decision, its idempotency key and the operator's action (invariant
-- I12) are one statement; it returns no row when the case is not open or the key was used before.

-- name: page
SELECT case_id, kind, order_id, subject, status, happened_at, currency, expected_minor, actual_minor, detail,
       evidence, fix, opened_at, changed_at, apply_requested_by, applied_at, closed_at, closed_by, reason,
       dismissal, gone_at
FROM market.reconciliation_cases
WHERE (opened_at, case_id) < (%(before)s, %(before_id)s)
  AND (%(status)s::text IS NULL OR status = %(status)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)
ORDER BY opened_at DESC, case_id DESC LIMIT %(limit)s

-- name: find
SELECT case_id, kind, order_id, subject, status, happened_at, currency, expected_minor, actual_minor, detail,
       evidence, fix, opened_at, changed_at, apply_requested_by, applied_at, closed_at, closed_by, reason,
       dismissal, gone_at
FROM market.reconciliation_cases WHERE case_id = %(case_id)s

-- name: close
WITH held AS MATERIALIZED (
    SELECT case_id, kind, order_id, subject, expected_minor, actual_minor FROM market.reconciliation_cases
    WHERE case_id = %(case_id)s AND status = 'open' FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM held
    ON CONFLICT DO NOTHING
    RETURNING subject
), closed AS (
    UPDATE market.reconciliation_cases AS c
    SET status = 'dismissed', closed_at = now(), changed_at = now(), closed_by = %(principal_id)s, reason = %(reason)s,
        apply_requested_by = NULL, apply_requested_at = NULL, gone_at = NULL, seen_at = NULL,
        dismissal = jsonb_build_object('action_id', %(action_id)s::text, 'by', %(principal_id)s::text, 'at', now(),
                                       'reason', %(reason)s::text)
    FROM held, claimed WHERE c.case_id = held.case_id
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'case.close', held.case_id, %(reason)s,
       jsonb_build_object('kind', kind, 'order_id', order_id, 'subject', held.subject,
                          'expected_minor', expected_minor, 'actual_minor', actual_minor)
FROM held, claimed
RETURNING action_id

-- name: apply
-- Asks the reconciler to make the proposed fix, which it works out afresh when it does so.
WITH held AS MATERIALIZED (
    SELECT case_id, kind, order_id, subject, fix FROM market.reconciliation_cases
    WHERE case_id = %(case_id)s AND status = 'open' AND fix IS NOT NULL FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM held
    ON CONFLICT DO NOTHING
    RETURNING subject
), asked AS (
    UPDATE market.reconciliation_cases AS c
    SET apply_requested_by = %(principal_id)s, apply_requested_at = now()
    FROM held, claimed WHERE c.case_id = held.case_id
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'case.apply', held.case_id, %(reason)s,
       jsonb_build_object('kind', kind, 'order_id', order_id, 'subject', held.subject, 'fix', fix)
FROM held, claimed
RETURNING action_id

-- name: runs
SELECT run_id, since, until, daily, complete, started_at, finished_at, report
FROM market.reconciliation_runs WHERE run_id < %(before)s ORDER BY run_id DESC LIMIT %(limit)s
