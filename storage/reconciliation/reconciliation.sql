-- What a reconciliation reads of orders and writes of cases. One connection, one statement at a time.

-- name: be_alone
-- For as long as the session lasts; an ended process lets go.
SELECT pg_try_advisory_lock(%(lock)s)

-- name: clock
SELECT now()

-- name: orders_of_range
-- Ids hold the time at which an order was placed: a window of ids is a window of time.
SELECT order_id FROM market.orders
WHERE order_id > %(after)s AND order_id < %(below)s ORDER BY order_id LIMIT %(limit)s

-- name: orders_of_returns
SELECT DISTINCT order_id FROM market.order_events
WHERE at >= %(since)s AND at < %(until)s
  AND kind IN ('order.refund_accepted', 'order.refund_failed', 'order.disputed', 'order.dispute_updated',
               'order.dispute_fee_changed', 'order.dispute_won', 'order.dispute_lost')

-- name: orders_of_payments
SELECT data ->> 'payment_intent_id', order_id FROM market.order_events
WHERE kind = 'order.paid' AND data ->> 'payment_intent_id' = ANY(%(payments)s)

-- name: payouts_sent
-- By Stripe's clock, as its own list of transfers.
SELECT p.payout_id, e.data ->> 'transfer_id', c.data ->> 'amount_minor', p.currency, e.data ->> 'made_at'
FROM market.payout_events e
JOIN LATERAL (  -- of the try that was sent
    SELECT data FROM market.payout_events
    WHERE payout_id = e.payout_id AND kind = 'payout.cleared' AND seq < e.seq ORDER BY seq DESC LIMIT 1) c ON true
JOIN market.payouts p ON p.payout_id = e.payout_id
WHERE e.kind = 'payout.sent'
  AND (e.data ->> 'made_at')::timestamptz >= %(since)s AND (e.data ->> 'made_at')::timestamptz < %(until)s

-- name: recorded_transfers
-- Which of these transfers and transfer reversals a payout has recorded.
SELECT coalesce(data ->> 'reversal_id', data ->> 'transfer_id') FROM market.payout_events
WHERE kind IN ('payout.sent', 'payout.returned')
  AND coalesce(data ->> 'reversal_id', data ->> 'transfer_id') = ANY(%(ids)s)

-- name: look_at_payout
-- As its webhook would have done: the runner asks Stripe.
UPDATE market.payouts SET nudges = nudges + 1, due_at = least(due_at, now())
WHERE payout_id IN (
    SELECT payout_id FROM market.payout_events
    WHERE kind = 'payout.sent' AND data ->> 'transfer_id' = %(transfer_id)s)
RETURNING payout_id

-- name: histories
SELECT order_id, kind, data::text FROM market.order_events
WHERE order_id = ANY(%(order_ids)s) AND kind <> ALL(%(without)s) ORDER BY order_id, seq

-- name: licences
SELECT order_id, line_no, status FROM market.licences WHERE order_id = ANY(%(order_ids)s)

-- name: waiting
-- Two branches, for each has its partial index; no index holds the order's id. Few wait, fewer are dead.
SELECT order_id, event_id, coalesce(nullif(payload ->> 'object_id', ''), payload ->> 'payment_intent_id'), false
FROM market.inbox WHERE processed_at IS NULL AND dead_at IS NULL AND order_id = ANY(%(order_ids)s)
UNION ALL
SELECT order_id, event_id, coalesce(nullif(payload ->> 'object_id', ''), payload ->> 'payment_intent_id'), true
FROM market.inbox WHERE dead_at IS NOT NULL AND order_id = ANY(%(order_ids)s)

-- name: tell_order
-- Into the inbox, as an arriving webhook is kept: a sweep of any host applies it. Once per event id.
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at)
SELECT %(event_id)s, order_id, %(kind)s, %(payload)s::jsonb, now()
FROM market.orders WHERE order_id = %(order_id)s
ON CONFLICT DO NOTHING
RETURNING event_id

-- name: open_cases
SELECT case_id, kind, order_id, subject, coalesce(evidence ->> 'payment_intent', ''), apply_requested_at IS NOT NULL
FROM market.reconciliation_cases WHERE status = 'open'

-- name: pending_cases
-- Cases that somebody asked to mend, or that were mended a moment ago: they are looked at again soon.
SELECT count(*) FROM market.reconciliation_cases
WHERE status = 'open' AND (apply_requested_at IS NOT NULL OR applied_at > now() - %(settling_s)s * interval '1 second')

-- name: record_cases
-- Opens what is new, changes what has other amounts, opens again what had closed by itself. A dismissed case comes
-- back with other amounts, when it had been gone, and when its dismissal is old. What is known as it is, is not
-- touched, and not returned.
INSERT INTO market.reconciliation_cases AS known
    (case_id, kind, order_id, subject, happened_at, currency, expected_minor, actual_minor, detail, evidence, fix)
SELECT case_id, kind, order_id, subject, happened_at, currency, expected_minor, actual_minor, detail, evidence, fix
FROM json_to_recordset(%(cases)s::json) AS c (case_id text, kind text, order_id text, subject text,
    happened_at timestamptz, currency text, expected_minor bigint, actual_minor bigint, detail text, evidence jsonb,
    fix text)
ORDER BY case_id
ON CONFLICT (case_id) DO UPDATE SET
    status = 'open', closed_at = NULL, closed_by = NULL, reason = NULL, gone_at = NULL, changed_at = now(),
    opened_at = CASE WHEN known.status = 'open' THEN known.opened_at ELSE now() END,
    applied_at = CASE WHEN known.status = 'open' THEN known.applied_at END,
    happened_at = excluded.happened_at, currency = excluded.currency, expected_minor = excluded.expected_minor,
    actual_minor = excluded.actual_minor, detail = excluded.detail, evidence = excluded.evidence, fix = excluded.fix
WHERE known.status = 'resolved'
   OR (known.status = 'dismissed' AND (known.gone_at IS NOT NULL OR known.closed_at < now() - %(dismissed_for)s))
   OR (known.currency, known.expected_minor, known.actual_minor)
      IS DISTINCT FROM (excluded.currency, excluded.expected_minor, excluded.actual_minor)
   OR (known.status = 'open' AND (known.detail, known.fix) IS DISTINCT FROM (excluded.detail, excluded.fix))
RETURNING case_id, opened_at = changed_at

-- name: dismissed_cases
SELECT case_id FROM market.reconciliation_cases WHERE case_id = ANY(%(case_ids)s) AND status = 'dismissed'

-- name: accepted_cases
-- Dismissed differences that are still there, as far as known; those that were looked for longest ago.
SELECT case_id, kind, order_id, subject, coalesce(evidence ->> 'payment_intent', ''), false
FROM market.reconciliation_cases WHERE status = 'dismissed' AND gone_at IS NULL
ORDER BY seen_at NULLS FIRST, case_id LIMIT %(limit)s

-- name: seen_cases
UPDATE market.reconciliation_cases SET seen_at = now()
WHERE case_id = ANY(%(case_ids)s) AND status = 'dismissed' AND gone_at IS NULL

-- name: gone_cases
-- Of the dismissed ones that were looked for, those that are not found any more.
UPDATE market.reconciliation_cases SET gone_at = now()
WHERE status = 'dismissed' AND gone_at IS NULL AND order_id = ANY(%(order_ids)s)
  AND case_id = ANY(%(accepted)s) AND NOT case_id = ANY(%(found)s)

-- name: gone_loose_cases
-- The same for cases about no order, of the kinds that were looked at.
UPDATE market.reconciliation_cases SET gone_at = now()
WHERE status = 'dismissed' AND gone_at IS NULL AND order_id = '' AND kind = ANY(%(kinds)s)
  AND case_id = ANY(%(accepted)s) AND NOT case_id = ANY(%(found)s)

-- name: resolve_cases
-- Cases of orders that were looked at in full, and that are not found any more.
UPDATE market.reconciliation_cases
SET status = 'resolved', closed_at = now(), changed_at = now(), apply_requested_by = NULL, apply_requested_at = NULL
WHERE status = 'open' AND order_id = ANY(%(order_ids)s) AND NOT case_id = ANY(%(found)s)
RETURNING case_id

-- name: resolve_loose_cases
-- The same for cases about no order, of the kinds that were looked at.
UPDATE market.reconciliation_cases
SET status = 'resolved', closed_at = now(), changed_at = now(), apply_requested_by = NULL, apply_requested_at = NULL
WHERE status = 'open' AND order_id = '' AND kind = ANY(%(kinds)s) AND NOT case_id = ANY(%(found)s)
RETURNING case_id

-- name: applied
UPDATE market.reconciliation_cases
SET applied_at = now(), apply_requested_by = NULL, apply_requested_at = NULL, evidence = evidence || %(note)s::jsonb
WHERE case_id = %(case_id)s AND status = 'open'

-- name: open_by_kind
SELECT kind, count(*) FROM market.reconciliation_cases WHERE status = 'open' GROUP BY kind

-- name: record_run
INSERT INTO market.reconciliation_runs (run_id, since, until, daily, complete, started_at, report)
VALUES (%(run_id)s, %(since)s, %(until)s, %(daily)s, %(complete)s, %(started_at)s, %(report)s::jsonb)

-- name: daily_until
-- Up to when a daily run has looked at everything.
SELECT max(until) FROM market.reconciliation_runs WHERE daily AND complete

-- name: last_run
SELECT extract(epoch FROM now() - max(finished_at)) FROM market.reconciliation_runs WHERE daily
