-- Payouts that wait; cases that remember their dismissal; fees of disputes by transaction.

ALTER TABLE payouts DROP CONSTRAINT payouts_status_check;
ALTER TABLE payouts ADD CONSTRAINT payouts_status_check CHECK (status IN
    ('approved', 'awaiting_account', 'awaiting_balance', 'cleared', 'booked', 'sent', 'settled', 'refused', 'failed',
     'returned'));
DROP INDEX payouts_unfinished;
CREATE INDEX payouts_unfinished ON payouts (payee_id, currency, position)
    WHERE status IN ('approved', 'awaiting_account', 'awaiting_balance', 'cleared', 'booked', 'sent', 'refused');
CREATE INDEX payouts_awaiting_account ON payouts (account_id) WHERE status = 'awaiting_account';
CREATE INDEX payees_by_account ON payees (account_id);

-- The last dismissal stays with a case that comes back: action_id, by, at, reason. `gone_at`: a run has not found the
-- difference of a dismissed case any more, so the next one that does opens it again. `seen_at`: a run looked for it.
ALTER TABLE reconciliation_cases
    ADD COLUMN dismissal jsonb,
    ADD COLUMN gone_at   timestamptz,
    ADD COLUMN seen_at   timestamptz;
UPDATE reconciliation_cases AS c
SET dismissal = jsonb_build_object(
    'action_id', (SELECT max(action_id) FROM operator_actions WHERE action = 'case.close' AND subject = c.case_id),
    'by', closed_by, 'at', closed_at, 'reason', reason)
WHERE status = 'dismissed';
ALTER TABLE reconciliation_cases
    ADD CONSTRAINT reconciliation_cases_dismissal CHECK (status <> 'dismissed' OR dismissal IS NOT NULL),
    ADD CONSTRAINT reconciliation_cases_gone CHECK (gone_at IS NULL OR status = 'dismissed');
CREATE INDEX reconciliation_cases_dismissed ON reconciliation_cases (seen_at NULLS FIRST, case_id)
    WHERE status = 'dismissed' AND gone_at IS NULL;

DROP INDEX order_events_of_returns;
CREATE INDEX order_events_of_returns ON order_events (at)
    WHERE kind IN ('order.refund_accepted', 'order.refund_failed', 'order.disputed', 'order.dispute_updated',
                   'order.dispute_fee_changed', 'order.dispute_won', 'order.dispute_lost');
