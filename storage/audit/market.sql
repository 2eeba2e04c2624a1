-- Pages of orders for the invariant checker. A page is a range of order ids, above `after` up to and with
-- `last`; the last page has no upper bound (null). What hangs on orders is read by the same range and not
-- by the page's ids, so that rows of an order that does not exist are met too. Ids are ASCII of one shape
-- and length, so every collation sorts them alike.

-- name: page_of_orders
SELECT order_id, status, seq, buyer_id, currency, total_minor
FROM market.orders
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
ORDER BY order_id LIMIT %(limit)s

-- name: end_of_page
SELECT order_id FROM market.orders WHERE order_id > %(after)s ORDER BY order_id OFFSET %(skipped)s LIMIT 1

-- name: events_of_page
SELECT order_id, seq, event_id, kind, data::text
FROM market.order_events
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
ORDER BY order_id, seq

-- name: licences_of_page
SELECT order_id, licence_id, line_no, release_id, quantity
FROM market.licences
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: deliveries_of_page
SELECT order_id, delivery_id, line_no, release_id, wrapped_identity IS NOT NULL
FROM market.deliveries
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: effects_of_page
SELECT order_id, step, due_at, dead_at IS NOT NULL
FROM market.effects
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: dropped_of_page
-- Dead effects that an operator dropped. Actions by hand are few, so no index is needed for this.
SELECT detail ->> 'order_id', detail ->> 'work'
FROM market.operator_actions
WHERE action = 'dead_letter.drop' AND detail ->> 'order_id' > %(after)s
  AND (%(last)s::text IS NULL OR detail ->> 'order_id' <= %(last)s)

-- name: waiting_webhooks_of_page
-- Two branches, for each has its partial index; no index holds the order's id.
SELECT order_id, event_id, false, due_at, false
FROM market.inbox
WHERE processed_at IS NULL AND dead_at IS NULL
  AND order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
UNION ALL
SELECT order_id, event_id, processed_at IS NOT NULL, due_at, true
FROM market.inbox
WHERE dead_at IS NOT NULL AND order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: processed_webhooks
-- The webhooks that orders of the page say they were paid by.
SELECT order_id, event_id, true, due_at, dead_at IS NOT NULL
FROM market.inbox WHERE event_id = ANY(%(event_ids)s) AND processed_at IS NOT NULL

-- name: snapshot_time
-- When the page's snapshot was taken, a moment ago, by the database's clock.
SELECT now()
