-- Pages of orders for the invariant checker. A page is a range of order ids, above `after` up to and with
-- `last`; the last page has no upper bound (null). What hangs on orders is read by the same range and not
-- by the page's ids, so that rows of an order that does not exist are met too. Ids are ASCII of one shape
-- and length, so every collation sorts them alike.

-- name: page_of_orders
SELECT order_id, status, seq, buyer_id, currency, total_minor, returned_minor
FROM market.orders
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
ORDER BY order_id LIMIT %(limit)s

-- name: payouts
SELECT p.payout_id, p.status, p.seq, 'payout:' || p.payee_id || ':' || p.currency || ':' || p.period,
       (SELECT jsonb_agg(jsonb_build_array(seq, kind, data) ORDER BY seq)::text
        FROM market.payout_events e WHERE e.payout_id = p.payout_id)
FROM market.payouts p WHERE p.payout_id > %(after)s ORDER BY p.payout_id LIMIT %(limit)s

-- name: end_of_page
SELECT order_id FROM market.orders WHERE order_id > %(after)s ORDER BY order_id OFFSET %(skipped)s LIMIT 1

-- name: events_of_page
SELECT order_id, seq, event_id, kind, data::text
FROM market.order_events
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
ORDER BY order_id, seq

-- name: licences_of_page
SELECT order_id, licence_id, line_no, release_id, quantity, status, buyer_id, sku_id, envelope
FROM market.licences
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: successors_of_page
SELECT s.licence_id, s.document_id, s.serial, s.supersedes, s.buyer_id, s.envelope
FROM market.licences AS l JOIN market.licence_successors AS s USING (licence_id)
WHERE l.order_id > %(after)s AND (%(last)s::text IS NULL OR l.order_id <= %(last)s)
ORDER BY s.licence_id, s.serial

-- name: deliveries_of_page
SELECT order_id, delivery_id, line_no, release_id, wrapped_identity IS NOT NULL, mode, recipient, buyer_id,
       header, manifest
FROM market.deliveries
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: discount_uses_of_page
SELECT order_id, discount_id, buyer_id
FROM market.discount_uses
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
SELECT order_id, event_id, false, due_at, false, kind
FROM market.inbox
WHERE processed_at IS NULL AND dead_at IS NULL
  AND order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)
UNION ALL
SELECT order_id, event_id, processed_at IS NOT NULL, due_at, true, kind
FROM market.inbox
WHERE dead_at IS NOT NULL AND order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: processed_webhooks
-- The webhooks that orders of the page say they were paid by.
SELECT order_id, event_id, true, due_at, dead_at IS NOT NULL, kind
FROM market.inbox WHERE event_id = ANY(%(event_ids)s) AND processed_at IS NOT NULL

-- name: outbox_of_page
-- Its key begins with the shard, so each page reads all that waits. In a healthy system that is next to nothing.
SELECT order_id, first_seq, last_seq
FROM market.outbox
WHERE order_id > %(after)s AND (%(last)s::text IS NULL OR order_id <= %(last)s)

-- name: behind_of_page
-- Consumers that have not certainly taken all of an order: mostly no row. An order without a progress row was
-- taken up to the settled time; before its registration a consumer need not have been asked. While none is
-- registered nothing can have been taken. LATERAL and OFFSET 0: see storage/market/consumers.sql.
WITH asked AS MATERIALIZED (
    SELECT consumer, registered_at, settled_before FROM market.consumers
    UNION ALL
    SELECT 'any consumer', '-infinity', '-infinity' WHERE NOT EXISTS (SELECT FROM market.consumers)
)
SELECT o.order_id, c.consumer, coalesce(p.seq, h.settled_seq), h.unasked_seq, s.seq
FROM market.orders o
CROSS JOIN asked c
LEFT JOIN LATERAL (
    SELECT seq FROM market.consumer_progress WHERE consumer = c.consumer AND order_id = o.order_id OFFSET 0
) AS p ON true
CROSS JOIN LATERAL (
    SELECT coalesce(max(e.seq) FILTER (WHERE e.at < c.settled_before), 0) AS settled_seq,
           coalesce(max(e.seq) FILTER (WHERE e.at < c.registered_at), 0) AS unasked_seq
    FROM market.order_events e
    WHERE e.order_id = o.order_id COLLATE "default" AND p.seq IS DISTINCT FROM o.seq OFFSET 0
) AS h
LEFT JOIN LATERAL (
    SELECT seq FROM market.stuck_events
    WHERE consumer = c.consumer AND order_id = o.order_id AND parked_at IS NOT NULL OFFSET 0
) AS s ON true
WHERE o.order_id > %(after)s AND (%(last)s::text IS NULL OR o.order_id <= %(last)s)
  AND p.seq IS DISTINCT FROM o.seq
  AND (coalesce(p.seq, h.settled_seq) <> o.seq OR h.unasked_seq > 0)

-- name: sales_sums
-- By SKU and by day, as the checker sums up the orders.
SELECT axis, name, currency, orders::bigint, units::bigint, gross_minor::bigint
FROM (
    SELECT 'sku' AS axis, sku_id AS name, currency, sum(orders) AS orders, sum(units) AS units,
           sum(gross_minor) AS gross_minor
    FROM market.sales_by_day GROUP BY sku_id, currency
    UNION ALL
    SELECT 'day', day::text, currency, sum(orders), sum(units), sum(gross_minor)
    FROM market.sales_by_day GROUP BY day, currency
) AS sums

-- name: is_registered
SELECT EXISTS (SELECT FROM market.consumers WHERE consumer = %(consumer)s)

-- name: snapshot_time
-- When the page's snapshot was taken, a moment ago, by the database's clock.
SELECT now()

-- name: unlogged_of_page
-- Facts whose entry is missing, was erased without them, or commits to something else: mostly no row. While earlier
-- orders are still being sent to the log, those that it has not come to are not missed. A licence that waited for its
-- signer is dated when it was paid for, so its age is that of the event which issued it.
SELECT f.order_id, f.subject_id,
       CASE WHEN a.position IS NULL THEN 'missing' WHEN a.salt IS NULL THEN 'erased' ELSE 'differs' END, f.at
FROM (
    SELECT e.order_id, e.event_id AS subject_id, 'event' AS kind, e.at, market.audit_record(e) AS record
    FROM market.order_events AS e
    WHERE e.order_id > %(after)s AND (%(last)s::text IS NULL OR e.order_id <= %(last)s)
    UNION ALL
    SELECT l.order_id, l.licence_id, 'licence', greatest(l.issued_at, issued.at), E'licence\n' || l.envelope
    FROM market.licences AS l
    LEFT JOIN LATERAL (
        SELECT max(at) AS at FROM market.order_events WHERE order_id = l.order_id AND kind = 'order.licensed'
    ) AS issued ON true
    WHERE l.order_id > %(after)s AND (%(last)s::text IS NULL OR l.order_id <= %(last)s)
    UNION ALL
    SELECT l.order_id, s.document_id, 'licence', s.recorded_at, E'licence\n' || s.envelope
    FROM market.licences AS l JOIN market.licence_successors AS s USING (licence_id)
    WHERE l.order_id > %(after)s AND (%(last)s::text IS NULL OR l.order_id <= %(last)s)
    UNION ALL
    SELECT d.order_id, d.delivery_id, 'delivery', d.created_at, E'delivery\n' || d.manifest
    FROM market.deliveries AS d
    WHERE d.order_id > %(after)s AND (%(last)s::text IS NULL OR d.order_id <= %(last)s)
) AS f
CROSS JOIN market.audit_log AS log
LEFT JOIN LATERAL (
    SELECT position, kind, order_id, salt, digest FROM market.audit_entries
    WHERE subject_id = f.subject_id OFFSET 0
) AS a ON true
WHERE (a.position IS NULL AND (log.history_after IS NULL OR f.order_id <= log.history_after))
   OR a.kind <> f.kind OR a.order_id <> f.order_id
   OR (a.position IS NOT NULL AND a.salt IS NULL)
   OR (a.salt IS NOT NULL AND a.digest <> sha256(a.salt || convert_to(f.record, 'UTF8')))
