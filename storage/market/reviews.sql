-- name: reviews
-- An authorised payment opens a review; the first of these events after it closes it. An open one cannot be older
-- than the longest deadline, so the open ones are found without a look at all that ever were.
SELECT a.order_id, o.buyer_id, o.currency, o.total_minor, s.data -> 'reasons', a.at, (a.data ->> 'review_s')::int,
       d.kind, d.data ->> 'reviewer_id', coalesce(d.data ->> 'reason', ''), d.at, coalesce(d.data ->> 'code', '')
FROM market.order_events a
JOIN market.orders o ON o.order_id = a.order_id
JOIN market.order_events s ON s.order_id = a.order_id AND s.seq = 2
LEFT JOIN LATERAL (
    SELECT kind, data, at FROM market.order_events
    WHERE order_id = a.order_id AND seq > a.seq
      AND kind IN ('order.review_approved', 'order.review_rejected', 'order.cancelled')
    ORDER BY seq LIMIT 1
) AS d ON true
WHERE a.kind = 'order.payment_authorised' AND a.order_id COLLATE "C" < %(before)s
  AND (%(status)s::text IS NULL OR %(status)s::text = CASE d.kind
       WHEN 'order.review_approved' THEN 'approved' WHEN 'order.review_rejected' THEN 'rejected'
       WHEN 'order.cancelled' THEN 'ended' ELSE 'open' END)
  AND (%(status)s::text IS DISTINCT FROM 'open' OR a.at > now() - %(open_s_max)s * interval '1 second')
ORDER BY a.order_id COLLATE "C" DESC LIMIT %(limit)s
