-- name: add_sales
-- One update per SKU, day and currency for the whole batch. Lines are those of the order's first event. The
-- rows are sorted so that two batches lock them in the same order. LATERAL and OFFSET 0: see consumers.sql.
WITH paid AS (
    SELECT e.order_id, ((e.data ->> 'at')::timestamptz AT TIME ZONE 'UTC')::date AS day
    FROM json_to_recordset(%(paid)s::json) AS a (order_id text, seq int)
    CROSS JOIN LATERAL (
        SELECT order_id, data FROM market.order_events WHERE order_id = a.order_id AND seq = a.seq OFFSET 0
    ) AS e
), sold AS MATERIALIZED (
    SELECT paid.order_id, paid.day, l.sku_id, c.data ->> 'currency' AS currency,
           sum(l.quantity) AS units,
           sum(l.quantity * l.unit_price_minor - coalesce(l.discount_minor, 0)) AS gross_minor
    FROM paid
    CROSS JOIN LATERAL (
        SELECT data FROM market.order_events
        WHERE order_id = paid.order_id AND seq = 1 AND kind = 'order.created' OFFSET 0
    ) AS c
    CROSS JOIN LATERAL jsonb_to_recordset(c.data -> 'lines')
        AS l (sku_id text, quantity bigint, unit_price_minor bigint, discount_minor bigint)
    GROUP BY paid.order_id, paid.day, l.sku_id, currency
), added AS (
    INSERT INTO market.sales_by_day AS s (day, sku_id, currency, orders, units, gross_minor)
    SELECT day, sku_id, currency, count(*), sum(units), sum(gross_minor)
    FROM sold GROUP BY day, sku_id, currency ORDER BY day, sku_id, currency
    ON CONFLICT (day, sku_id, currency) DO UPDATE SET
        orders = s.orders + excluded.orders, units = s.units + excluded.units,
        gross_minor = s.gross_minor + excluded.gross_minor
)
SELECT count(DISTINCT order_id) FROM sold

-- name: sales_by_day
SELECT s.day, s.sku_id, s.currency, s.orders, s.units, s.gross_minor
FROM market.sales_by_day s
WHERE s.day BETWEEN %(first_day)s AND %(last_day)s
  AND (s.day, s.sku_id, s.currency) > (%(after_day)s, %(after_sku_id)s, %(after_currency)s)
ORDER BY s.day, s.sku_id, s.currency LIMIT %(limit)s

-- name: sales_of_seller
SELECT s.day, s.sku_id, s.currency, s.orders, s.units, s.gross_minor
FROM market.sales_by_day s JOIN market.skus k USING (sku_id)
WHERE k.seller_id = %(seller_id)s AND s.day BETWEEN %(first_day)s AND %(last_day)s
  AND (s.day, s.sku_id, s.currency) > (%(after_day)s, %(after_sku_id)s, %(after_currency)s)
ORDER BY s.day, s.sku_id, s.currency LIMIT %(limit)s
