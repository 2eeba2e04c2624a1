-- name: place_order
-- The idempotency key, the order, its first events and its first effect, or nothing at all. No row
-- comes back when the key was used before: the caller then asks `find_command`.
WITH turn AS MATERIALIZED (SELECT %(turn)s::jsonb AS t),
claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject)
    VALUES (%(buyer_id)s, %(idempotency_key)s, %(request_digest)s, %(order_id)s)
    ON CONFLICT DO NOTHING
    RETURNING subject
), placed AS (
    INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)
    SELECT subject, %(buyer_id)s, %(status)s, %(seq)s, %(currency)s, %(total_minor)s FROM claimed
    RETURNING order_id
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, e.seq, e.event_id, e.kind, e.data
    FROM placed, turn, jsonb_to_recordset(t -> 'events') AS e (seq int, event_id text, kind text, data jsonb)
), due AS (
    INSERT INTO market.effects (order_id, step, due_at)
    SELECT order_id, d.step, now() + d.delay_s * interval '1 second'
    FROM placed, turn, jsonb_to_recordset(t -> 'due') AS d (step text, delay_s int)
)
SELECT order_id FROM placed

-- name: commit_turn
-- One command's whole outcome under the fence: zero rows mean that another host has moved on.
WITH turn AS MATERIALIZED (SELECT %(turn)s::jsonb AS t),
fenced AS (
    UPDATE market.orders
    SET seq = %(seq)s, status = %(status)s, updated_at = now(),
        payment_handle = coalesce(%(payment_handle)s::jsonb, payment_handle)
    WHERE order_id = %(order_id)s AND seq = %(fence)s
    RETURNING order_id, buyer_id
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, e.seq, e.event_id, e.kind, e.data
    FROM fenced, turn, jsonb_to_recordset(t -> 'events') AS e (seq int, event_id text, kind text, data jsonb)
), done AS (
    DELETE FROM market.effects AS x USING fenced, turn
    WHERE x.order_id = fenced.order_id AND t -> 'done' ? x.step
), due AS (
    INSERT INTO market.effects (order_id, step, due_at)
    SELECT order_id, d.step, now() + d.delay_s * interval '1 second'
    FROM fenced, turn, jsonb_to_recordset(t -> 'due') AS d (step text, delay_s int)
), processed AS (
    UPDATE market.inbox AS i SET processed_at = now(), outcome = 'applied' FROM fenced
    WHERE i.event_id = %(inbox_event_id)s
), licensed AS (
    INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, key_id,
                                 envelope, issued_at)
    SELECT l.licence_id, order_id, l.line_no, buyer_id, l.sku_id, l.release_id, l.quantity, l.key_id,
           l.envelope, l.issued_at
    FROM fenced, turn, jsonb_to_recordset(t -> 'licences')
        AS l (licence_id text, line_no int, sku_id text, release_id text, quantity int, key_id text,
              envelope text, issued_at timestamptz)
), delivered AS (
    INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode, recipient, header,
                                   manifest, wrapped_identity, key_expires_at)
    SELECT d.delivery_id, order_id, d.line_no, buyer_id, d.release_id, d.mode, d.recipient,
           decode(d.header, 'base64'), d.manifest, decode(d.wrapped_identity, 'base64'),
           now() + d.key_ttl_s * interval '1 second'
    FROM fenced, turn, jsonb_to_recordset(t -> 'deliveries')
        AS d (delivery_id text, line_no int, release_id text, mode text, recipient text, header text,
              manifest text, wrapped_identity text, key_ttl_s int)
)
SELECT order_id FROM fenced

-- name: load_history
SELECT o.payment_handle, e.kind, e.data
FROM market.orders o JOIN market.order_events e USING (order_id)
WHERE order_id = %(order_id)s
ORDER BY e.seq

-- name: find_command
SELECT request_digest, subject, response FROM market.commands
WHERE principal_id = %(principal_id)s AND idempotency_key = %(idempotency_key)s

-- name: claim_due_effects
-- SKIP LOCKED keeps sweepers of several hosts apart; moving due_at is the claim.
UPDATE market.effects AS x
SET attempts = attempts + 1, due_at = now() + %(lease_s)s * interval '1 second'
FROM (
    SELECT order_id, step FROM market.effects
    WHERE due_at <= now() AND step = ANY(%(steps)s)
    ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE x.order_id = due.order_id AND x.step = due.step
RETURNING x.order_id, x.step, x.attempts

-- name: defer_effect
UPDATE market.effects
SET due_at = now() + %(delay_s)s * interval '1 second', last_error = %(error)s
WHERE order_id = %(order_id)s AND step = %(step)s

-- name: store_webhook
-- Kept only for an order that we know; `known` tells a duplicate (known, not stored) from a stranger.
WITH target AS (
    SELECT order_id FROM market.orders WHERE order_id = %(order_id)s
), stored AS (
    INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at)
    SELECT %(event_id)s, order_id, %(kind)s, %(payload)s::jsonb, now() + %(lease_s)s * interval '1 second'
    FROM target
    ON CONFLICT DO NOTHING
    RETURNING event_id
)
SELECT EXISTS (SELECT FROM target) AS known, EXISTS (SELECT FROM stored) AS stored

-- name: claim_due_webhooks
UPDATE market.inbox AS i
SET attempts = attempts + 1, due_at = now() + %(lease_s)s * interval '1 second'
FROM (
    SELECT event_id FROM market.inbox
    WHERE processed_at IS NULL AND due_at <= now() ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE i.event_id = due.event_id
RETURNING i.event_id, i.order_id, i.kind, i.payload, i.attempts

-- name: close_webhook
UPDATE market.inbox SET processed_at = now(), outcome = %(outcome)s
WHERE event_id = %(event_id)s AND processed_at IS NULL

-- name: defer_webhook
UPDATE market.inbox SET due_at = now() + %(delay_s)s * interval '1 second', outcome = %(error)s
WHERE event_id = %(event_id)s AND processed_at IS NULL

-- name: list_orders_of_buyer
SELECT order_id, status, currency, total_minor, created_at, updated_at
FROM market.orders
WHERE buyer_id = %(buyer_id)s AND order_id < %(before)s
ORDER BY order_id DESC LIMIT %(limit)s

-- name: events_since
-- One query serves every progress stream of a replica: pairs of (order, last sequence number seen).
SELECT e.order_id, e.seq, e.event_id, e.kind, e.data, e.at
FROM unnest(%(order_ids)s::text[], %(seqs)s::int[]) AS w (order_id, seq)
JOIN market.order_events e ON e.order_id = w.order_id AND e.seq > w.seq
ORDER BY e.order_id, e.seq
