-- Group commits: each statement takes one or many orders' turns, as flat lists of rows in JSON, so a
-- transaction's fixed cost is shared by all turns that wait at that moment. Orders are locked in the order of
-- their ids, so that two hosts which commit overlapping groups wait for each other and never in a circle.

-- name: place_orders
-- Idempotency keys, orders, their first events and effects: for each order all of it or nothing. An order
-- whose key was used before does not come back; its caller then asks `find_command`.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(orders)s::json) AS t (
        order_id text, buyer_id text, key text, digest text, status text, seq int, currency text,
        total_minor bigint, shard smallint)
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject)
    SELECT buyer_id, key, decode(digest, 'hex'), order_id FROM input ORDER BY buyer_id, key
    ON CONFLICT DO NOTHING
    RETURNING subject
), placed AS (
    INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)
    SELECT order_id, buyer_id, status, seq, currency, total_minor
    FROM claimed JOIN input ON order_id = subject
    RETURNING order_id
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, e.seq, e.event_id, e.kind, e.data
    FROM json_to_recordset(%(events)s::json)
        AS e (order_id text, seq int, event_id text, kind text, data jsonb) JOIN placed USING (order_id)
), due AS (
    INSERT INTO market.effects (order_id, step, due_at)
    SELECT order_id, d.step, now() + d.delay_s * interval '1 second'
    FROM json_to_recordset(%(due)s::json) AS d (order_id text, step text, delay_s int) JOIN placed USING (order_id)
), published AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT shard, order_id, 1, seq FROM placed JOIN input USING (order_id)
)
SELECT order_id, true FROM placed

-- name: commit_turns
-- Whole outcomes of commands, each under its order's fence. An order that does not come back has been moved
-- on by another host: nothing of its turn was written. One that comes back false was to apply a webhook that an
-- operator has dropped: nothing of that turn was written either.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(turns)s::json) AS t (
        order_id text, fence int, seq int, status text, returned_minor bigint, payment_handle jsonb,
        shard smallint)
), dropped AS MATERIALIZED (
    SELECT n.order_id FROM json_to_recordset(%(news)s::json) AS n (order_id text, event_id text)
    JOIN market.inbox AS i ON i.event_id = n.event_id AND i.outcome = 'dropped'
), held AS MATERIALIZED (
    SELECT o.order_id FROM market.orders AS o JOIN input AS t ON o.order_id = t.order_id AND o.seq = t.fence
    WHERE NOT EXISTS (SELECT FROM dropped AS d WHERE d.order_id = t.order_id)
    ORDER BY o.order_id FOR NO KEY UPDATE OF o
), fenced AS (
    UPDATE market.orders AS o
    SET seq = t.seq, status = t.status, returned_minor = t.returned_minor, updated_at = now(),
        payment_handle = coalesce(t.payment_handle, o.payment_handle)
    FROM held JOIN input AS t USING (order_id)
    WHERE o.order_id = held.order_id AND o.seq = t.fence
    RETURNING o.order_id, o.buyer_id, t.fence, t.seq, t.shard
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, e.seq, e.event_id, e.kind, e.data
    FROM json_to_recordset(%(events)s::json)
        AS e (order_id text, seq int, event_id text, kind text, data jsonb) JOIN fenced USING (order_id)
), done AS (
    DELETE FROM market.effects AS x
    USING json_to_recordset(%(done)s::json) AS d (order_id text, step text) JOIN fenced USING (order_id)
    WHERE x.order_id = d.order_id AND x.step = d.step
), due AS (
    INSERT INTO market.effects (order_id, step, due_at)
    SELECT order_id, d.step, now() + d.delay_s * interval '1 second'
    FROM json_to_recordset(%(due)s::json) AS d (order_id text, step text, delay_s int) JOIN fenced USING (order_id)
), published AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT shard, order_id, fence + 1, seq FROM fenced
), applied AS (
    INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, processed_at, outcome)
    SELECT n.event_id, order_id, n.kind, n.payload, now(), now(), 'applied'
    FROM json_to_recordset(%(news)s::json)
        AS n (order_id text, event_id text, kind text, payload jsonb) JOIN fenced USING (order_id)
    ON CONFLICT (event_id) DO UPDATE
    SET processed_at = now(), outcome = 'applied', dead_at = NULL, dead_code = NULL
    WHERE inbox.processed_at IS NULL
), licensed AS (
    INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, key_id,
                                 envelope, issued_at)
    SELECT l.licence_id, order_id, l.line_no, buyer_id, l.sku_id, l.release_id, l.quantity, l.key_id,
           l.envelope, l.issued_at
    FROM json_to_recordset(%(licences)s::json)
        AS l (order_id text, licence_id text, line_no int, sku_id text, release_id text, quantity int,
              key_id text, envelope text, issued_at timestamptz) JOIN fenced USING (order_id)
), delivered AS (
    INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode, recipient, header,
                                   manifest, wrapped_identity, key_expires_at)
    SELECT d.delivery_id, order_id, d.line_no, buyer_id, d.release_id, d.mode, d.recipient,
           decode(d.header, 'base64'), d.manifest, decode(d.wrapped_identity, 'base64'),
           now() + d.key_ttl_s * interval '1 second'
    FROM json_to_recordset(%(deliveries)s::json)
        AS d (order_id text, delivery_id text, line_no int, release_id text, mode text, recipient text,
              header text, manifest text, wrapped_identity text, key_ttl_s int) JOIN fenced USING (order_id)
), forgotten AS (
    UPDATE market.deliveries AS v SET wrapped_identity = NULL
    FROM json_array_elements_text(%(forgotten)s::json) AS f (order_id) JOIN fenced USING (order_id)
    WHERE v.order_id = f.order_id
), judged AS (
    UPDATE market.licences AS c SET status = s.status
    FROM json_to_recordset(%(standings)s::json) AS s (order_id text, line_no int, status text)
        JOIN fenced USING (order_id)
    WHERE c.order_id = s.order_id AND c.line_no = s.line_no
)
SELECT order_id, true FROM fenced UNION ALL SELECT order_id, false FROM dropped

-- name: load_histories
SELECT o.order_id, o.payment_handle, e.kind, e.data
FROM unnest(%(order_ids)s::text[]) AS w (order_id)
JOIN market.orders o USING (order_id) JOIN market.order_events e USING (order_id)
ORDER BY o.order_id, e.seq

-- name: find_command
SELECT request_digest, subject, response FROM market.commands
WHERE principal_id = %(principal_id)s AND idempotency_key = %(idempotency_key)s

-- name: claim_due_effects
-- SKIP LOCKED keeps sweepers of several hosts apart; moving due_at is the claim.
UPDATE market.effects AS x
SET attempts = attempts + 1, due_at = now() + %(lease_s)s * interval '1 second'
FROM (
    SELECT order_id, step FROM market.effects
    WHERE due_at <= now() AND dead_at IS NULL AND split_part(step, ':', 1) = ANY(%(steps)s)
    ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE x.order_id = due.order_id AND x.step = due.step
RETURNING x.order_id, x.step, x.attempts, x.unforeseen

-- name: defer_effect
UPDATE market.effects
SET due_at = now() + %(delay_s)s * interval '1 second', last_error = %(error)s,
    unforeseen = unforeseen + %(unforeseen)s::int
WHERE order_id = %(order_id)s AND step = %(step)s

-- name: bury_effect
UPDATE market.effects
SET dead_at = now(), dead_code = %(code)s, last_error = %(error)s, attempts = attempts + 1
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
    WHERE processed_at IS NULL AND dead_at IS NULL AND due_at <= now() ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE i.event_id = due.event_id
RETURNING i.event_id, i.order_id, i.kind, i.payload, i.attempts, i.unforeseen

-- name: settle_webhook
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, processed_at, outcome)
VALUES (%(event_id)s, %(order_id)s, %(kind)s, %(payload)s::jsonb, now(), now(), %(outcome)s)
ON CONFLICT (event_id) DO UPDATE
SET processed_at = now(), outcome = excluded.outcome, dead_at = NULL, dead_code = NULL
WHERE inbox.processed_at IS NULL

-- name: bury_webhook
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, dead_at, dead_code, outcome)
VALUES (%(event_id)s, %(order_id)s, %(kind)s, %(payload)s::jsonb, now(), now(), %(code)s, %(error)s)
ON CONFLICT (event_id) DO UPDATE
SET dead_at = now(), dead_code = excluded.dead_code, outcome = excluded.outcome
WHERE inbox.processed_at IS NULL

-- name: defer_webhook
UPDATE market.inbox
SET due_at = now() + %(delay_s)s * interval '1 second', outcome = %(error)s,
    unforeseen = unforeseen + %(unforeseen)s::int
WHERE event_id = %(event_id)s AND processed_at IS NULL

-- name: order_of_payment
-- Disputes, and refunds made at Stripe by hand, name the payment only.
SELECT order_id FROM market.order_events
WHERE kind = 'order.paid' AND data ->> 'payment_intent_id' = %(payment_intent_id)s
LIMIT 1

-- name: disputed_orders
-- The index of returns (order_events_of_returns) holds few events; an order may have several disputes.
SELECT e.order_id, e.data ->> 'dispute_id', e.at
FROM market.order_events e JOIN market.orders o USING (order_id)
WHERE e.kind = 'order.disputed' AND o.status = 'disputed' AND e.at <= %(before)s
  AND (e.at, e.order_id, e.data ->> 'dispute_id') < (%(before)s, %(before_order)s, %(before_dispute)s)
ORDER BY e.at DESC, e.order_id DESC, e.data ->> 'dispute_id' DESC LIMIT %(limit)s

-- name: list_orders_of_buyer
SELECT order_id, status, currency, total_minor, created_at, updated_at
FROM market.orders
WHERE buyer_id = %(buyer_id)s AND order_id < %(before)s
ORDER BY order_id DESC LIMIT %(limit)s

-- name: events_since
-- One query serves every progress stream of a replica: pairs of (order, last sequence number seen).
SELECT e.order_id, e.seq, e.kind, e.data
FROM unnest(%(order_ids)s::text[], %(seqs)s::int[]) AS w (order_id, seq)
JOIN market.order_events e ON e.order_id = w.order_id AND e.seq > w.seq
ORDER BY e.order_id, e.seq
