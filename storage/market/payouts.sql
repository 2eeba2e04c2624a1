-- Payees, batches of payouts, and payouts. Lists travel as JSON: see outbox.sql.

-- name: payees
SELECT payee_id, account_id, transfers, payouts_enabled, named_by, named_at, checked_at
FROM market.payees WHERE payee_id IN (SELECT jsonb_array_elements_text(%(ids)s::jsonb))

-- name: name_account
-- The history has a row for each change, and none for a mere look at the account.
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), before AS (
    SELECT account_id FROM market.payees WHERE payee_id = %(subject)s
), named AS (
    INSERT INTO market.payees AS p
        (payee_id, account_id, transfers, payouts_enabled, named_by, named_at, checked_at)
    SELECT subject, %(account_id)s, %(transfers)s, %(payouts_enabled)s, %(principal_id)s, %(at)s, %(at)s
    FROM claimed
    ON CONFLICT (payee_id) DO UPDATE SET
        account_id = excluded.account_id, transfers = excluded.transfers,
        payouts_enabled = excluded.payouts_enabled, checked_at = excluded.checked_at,
        named_by = CASE WHEN p.account_id = excluded.account_id THEN p.named_by ELSE excluded.named_by END,
        named_at = CASE WHEN p.account_id = excluded.account_id THEN p.named_at ELSE excluded.named_at END
    RETURNING payee_id, account_id, named_by, named_at
), recorded AS (
    INSERT INTO market.payee_accounts (payee_id, account_id, named_by, named_at)
    SELECT payee_id, account_id, named_by, named_at FROM named
    WHERE account_id IS DISTINCT FROM (SELECT account_id FROM before)
)
SELECT payee_id FROM named

-- name: standing_batch
SELECT batch_id FROM market.payout_batches
WHERE currency = %(currency)s AND period = %(period)s AND status <> 'withdrawn'

-- name: claim_key
INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
ON CONFLICT DO NOTHING

-- name: insert_batch
INSERT INTO market.payout_batches (batch_id, period, currency, fees_version, holdback_bps, holdback_days,
                                   minimum_minor, cut_at, drafted_by, drafted_at)
VALUES (%(batch_id)s, %(period)s, %(currency)s, %(fees_version)s, %(holdback_bps)s, %(holdback_days)s,
        %(minimum_minor)s, %(cut_at)s, %(drafted_by)s, %(drafted_at)s)

-- name: insert_lines
INSERT INTO market.payout_lines (batch_id, payee_id, closing_minor, returned_minor, sold_minor, paid_minor,
                                 carried_minor, held_back_minor, reason, account_id, account_named_at)
SELECT %(batch_id)s, payee_id, closing_minor, returned_minor, sold_minor, paid_minor, carried_minor,
       held_back_minor, reason, account_id, account_named_at
FROM jsonb_to_recordset(%(lines)s::jsonb) AS l (
    payee_id text, closing_minor bigint, returned_minor bigint, sold_minor bigint, paid_minor bigint,
    carried_minor bigint, held_back_minor bigint, reason text, account_id text, account_named_at timestamptz)
ORDER BY payee_id

-- name: insert_action
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
VALUES (%(action_id)s, %(principal_id)s, %(action)s, %(subject)s, %(reason)s, %(detail)s::jsonb)

-- name: lock_batch
SELECT batch_id, period, currency, fees_version, holdback_bps, holdback_days, minimum_minor, cut_at, status,
       drafted_by, drafted_at, decided_by, decided_at, reason
FROM market.payout_batches WHERE batch_id = %(batch_id)s FOR UPDATE

-- name: batches
-- Newest first, below the id.
SELECT batch_id, period, currency, fees_version, holdback_bps, holdback_days, minimum_minor, cut_at, status,
       drafted_by, drafted_at, decided_by, decided_at, reason
FROM market.payout_batches WHERE batch_id < %(before)s COLLATE "C" ORDER BY batch_id DESC LIMIT %(limit)s

-- name: batch
SELECT batch_id, period, currency, fees_version, holdback_bps, holdback_days, minimum_minor, cut_at, status,
       drafted_by, drafted_at, decided_by, decided_at, reason
FROM market.payout_batches WHERE batch_id = %(batch_id)s

-- name: batch_totals
SELECT count(*), count(*) FILTER (WHERE paid_minor > 0), coalesce(sum(paid_minor), 0)::bigint,
       coalesce(sum(carried_minor), 0)::bigint, coalesce(sum(held_back_minor), 0)::bigint,
       (SELECT coalesce(jsonb_object_agg(reason, payees), '{}') FROM (
           SELECT reason, count(*) AS payees FROM market.payout_lines
           WHERE batch_id = %(batch_id)s AND reason IS NOT NULL GROUP BY reason) AS r)
FROM market.payout_lines WHERE batch_id = %(batch_id)s

-- name: batch_progress
SELECT status, count(*), count(*) FILTER (WHERE dead_at IS NOT NULL)
FROM market.payouts WHERE batch_id = %(batch_id)s GROUP BY status

-- name: lines
SELECT payee_id, closing_minor, returned_minor, sold_minor, paid_minor, carried_minor, held_back_minor, reason,
       account_id, account_named_at
FROM market.payout_lines WHERE batch_id = %(batch_id)s AND payee_id > %(after)s COLLATE "C"
ORDER BY payee_id LIMIT %(limit)s

-- name: line_of
-- The line of the standing batch of a period.
SELECT b.batch_id, b.status, l.paid_minor, l.carried_minor, l.held_back_minor, l.reason
FROM market.payout_batches b JOIN market.payout_lines l USING (batch_id)
WHERE b.currency = %(currency)s AND b.period = %(period)s AND b.status <> 'withdrawn'
  AND l.payee_id = %(payee_id)s

-- name: decide_batch
UPDATE market.payout_batches SET status = %(status)s, decided_by = %(by)s, decided_at = %(at)s, reason = %(reason)s
WHERE batch_id = %(batch_id)s

-- name: lock_approvals
-- Positions of payouts then rise with the commits of their approvals.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: insert_payouts
WITH given AS MATERIALIZED (
    SELECT payout_id, data FROM jsonb_to_recordset(%(payouts)s::jsonb) AS g (payout_id text, data jsonb)
), made AS (
    INSERT INTO market.payouts (payout_id, batch_id, payee_id, currency, period, account_id, amount_minor)
    SELECT payout_id, data ->> 'batch_id', data ->> 'payee_id', data ->> 'currency', data ->> 'period',
           data ->> 'account_id', (data ->> 'amount_minor')::bigint
    FROM given ORDER BY payout_id
)
SELECT count(*) FROM given

-- name: insert_first_events
INSERT INTO market.payout_events (payout_id, seq, kind, data)
SELECT payout_id, 1, %(kind)s, data
FROM jsonb_to_recordset(%(payouts)s::jsonb) AS g (payout_id text, data jsonb)

-- name: run_batch
-- What waits for its next try, or was given up, is due now.
UPDATE market.payouts SET due_at = now(), attempts = 0, unforeseen = 0, dead_at = NULL, dead_code = NULL
WHERE batch_id = %(batch_id)s AND status IN (
    'approved', 'awaiting_account', 'awaiting_balance', 'cleared', 'booked', 'sent', 'refused')
RETURNING payout_id

-- name: payouts
-- Newest first, below the id; of one payee or of all, of one batch or of all.
SELECT p.payout_id, p.last_error, p.dead_code, e.events
FROM (
    SELECT payout_id, last_error, dead_code FROM market.payouts
    WHERE payout_id < %(before)s COLLATE "C"
      AND (%(payee_id)s::text IS NULL OR payee_id = %(payee_id)s)
      AND (%(payout_id)s::text IS NULL OR payout_id = %(payout_id)s)
    ORDER BY payout_id DESC LIMIT %(limit)s
) AS p
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(kind, data) ORDER BY seq) AS events
    FROM market.payout_events WHERE payout_id = p.payout_id
) AS e
ORDER BY p.payout_id DESC

-- name: claim_due
-- Of one payee and currency the first that was approved goes first: two at once could both clear one balance.
WITH due AS (
    SELECT p.payout_id FROM market.payouts p
    WHERE p.due_at <= now() AND p.dead_at IS NULL AND NOT EXISTS (
        SELECT FROM market.payouts o
        WHERE o.payee_id = p.payee_id AND o.currency = p.currency AND o.position < p.position
          AND o.status IN (
              'approved', 'awaiting_account', 'awaiting_balance', 'cleared', 'booked', 'sent', 'refused')
    )
    ORDER BY p.due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE market.payouts p
SET due_at = now() + %(lease_s)s * interval '1 second', attempts = attempts + 1
FROM due WHERE p.payout_id = due.payout_id
RETURNING p.payout_id, p.attempts, p.unforeseen

-- name: load
SELECT e.kind, e.data, p.nudges FROM market.payouts p JOIN market.payout_events e USING (payout_id)
WHERE p.payout_id = %(payout_id)s ORDER BY e.seq

-- name: commit
-- The fence is the number of the last event. What rests and was not nudged since it was read is not due.
WITH moved AS (
    UPDATE market.payouts
    SET seq = seq + %(count)s, status = %(status)s, attempts = 0, unforeseen = 0, last_error = NULL,
        due_at = CASE WHEN %(rests)s AND nudges = %(nudges)s THEN NULL
                      WHEN %(rests)s THEN now() ELSE due_at END
    WHERE payout_id = %(payout_id)s AND seq = %(fence)s
    RETURNING payout_id
)
INSERT INTO market.payout_events (payout_id, seq, kind, data)
SELECT payout_id, %(fence)s + position, one ->> 0, one -> 1
FROM moved CROSS JOIN jsonb_array_elements(%(events)s::jsonb) WITH ORDINALITY AS given (one, position)
RETURNING seq

-- name: rest
UPDATE market.payouts SET due_at = NULL, attempts = 0, last_error = NULL
WHERE payout_id = %(payout_id)s AND nudges = %(nudges)s

-- name: wait
UPDATE market.payouts SET attempts = 0, unforeseen = 0, last_error = NULL,
       due_at = CASE WHEN nudges = %(nudges)s THEN now() + %(delay_s)s * interval '1 second' ELSE now() END
WHERE payout_id = %(payout_id)s

-- name: wake
UPDATE market.payouts SET nudges = nudges + 1, due_at = least(due_at, now())
WHERE account_id = %(account_id)s AND status = 'awaiting_account'
RETURNING payout_id

-- name: look_at_account
-- What Stripe says of an account now, for every payee that is paid to it.
UPDATE market.payees SET transfers = %(transfers)s, payouts_enabled = %(payouts_enabled)s, checked_at = %(at)s
WHERE account_id = %(account_id)s AND checked_at <= %(at)s
RETURNING payee_id

-- name: account_in_use
SELECT FROM market.payees WHERE account_id = %(account_id)s
UNION ALL
SELECT FROM market.payouts WHERE account_id = %(account_id)s AND status = 'awaiting_account'
LIMIT 1

-- name: nudge
UPDATE market.payouts SET nudges = nudges + 1, due_at = least(due_at, now())
WHERE payout_id = %(payout_id)s
RETURNING payout_id

-- name: defer
UPDATE market.payouts SET due_at = now() + %(delay_s)s * interval '1 second', last_error = %(error)s,
       unforeseen = unforeseen + %(unforeseen)s::int
WHERE payout_id = %(payout_id)s

-- name: bury
UPDATE market.payouts SET dead_at = now(), dead_code = %(code)s, last_error = %(error)s
WHERE payout_id = %(payout_id)s

-- name: figures
SELECT (SELECT coalesce(jsonb_object_agg(status, n), '{}')
        FROM (SELECT status, count(*) AS n FROM market.payouts GROUP BY status) AS s),
       (SELECT count(*) FROM market.payouts WHERE dead_at IS NOT NULL),
       (SELECT coalesce(jsonb_object_agg(reason, n), '{}') FROM (
           SELECT l.reason, count(*) AS n FROM market.payout_lines l
           JOIN (SELECT DISTINCT ON (currency) batch_id FROM market.payout_batches
                 WHERE status <> 'withdrawn' ORDER BY currency, drafted_at DESC) AS b USING (batch_id)
           WHERE l.reason IS NOT NULL GROUP BY l.reason) AS c)

-- name: gross_sold
-- What buyers paid for a payee's own lines, by order: without tax, discounts taken off.
SELECT o.order_id, sum(
    (l.line ->> 'quantity')::bigint * (l.line ->> 'unit_price_minor')::bigint
    - coalesce((l.line ->> 'discount_minor')::bigint, 0)
    - coalesce((SELECT sum((t ->> 'amount_minor')::bigint) FROM jsonb_array_elements(l.line -> 'taxes') AS t
                WHERE (t ->> 'inclusive')::boolean), 0))::bigint
FROM jsonb_array_elements_text(%(order_ids)s::jsonb) AS o (order_id)
CROSS JOIN LATERAL (
    SELECT data FROM market.order_events
    WHERE order_id = o.order_id AND seq = 1 AND kind = 'order.created' OFFSET 0
) AS c
CROSS JOIN LATERAL jsonb_array_elements(c.data -> 'lines') AS l (line)
WHERE l.line ->> 'seller_id' = %(payee_id)s
GROUP BY o.order_id
