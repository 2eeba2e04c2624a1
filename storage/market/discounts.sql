-- name: create_discount
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), made AS (
    INSERT INTO market.discounts (discount_id, code, seller_id, percent_bps, amounts_minor, minimum_minor, sku_ids,
                                  uses_max, uses_per_buyer_max, valid_from, valid_until, created_by, created_at)
    SELECT subject, %(code)s, %(seller_id)s, %(percent_bps)s, %(amounts_minor)s::jsonb, %(minimum_minor)s::jsonb,
           %(sku_ids)s::text[], %(uses_max)s, %(uses_per_buyer_max)s, %(valid_from)s, %(valid_until)s,
           %(principal_id)s, %(created_at)s
    FROM claimed
    RETURNING discount_id, code, seller_id
), noted AS (
    INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
    SELECT %(action_id)s, %(principal_id)s, 'discount.create', discount_id, %(reason)s,
           jsonb_build_object('code', code)
    FROM made WHERE seller_id IS NULL
)
SELECT discount_id FROM made

-- name: end_discount
-- An ended code stays as it ended; ending it again says the same.
WITH claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    VALUES (%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING subject
), ended AS (
    UPDATE market.discounts SET ended_at = coalesce(ended_at, now()) FROM claimed WHERE discount_id = subject
    RETURNING discount_id, code
), noted AS (
    INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
    SELECT %(action_id)s, %(principal_id)s, 'discount.end', discount_id, %(reason)s,
           jsonb_build_object('code', code)
    FROM ended WHERE %(by_operator)s
)
SELECT discount_id FROM ended

-- name: discount_of_code
SELECT discount_id, code, seller_id, percent_bps, amounts_minor, minimum_minor, sku_ids, uses_max,
       uses_per_buyer_max, valid_from, valid_until, ended_at, uses
FROM market.discounts WHERE code = %(code)s

-- name: discount
SELECT discount_id, code, seller_id, percent_bps, amounts_minor, minimum_minor, sku_ids, uses_max,
       uses_per_buyer_max, valid_from, valid_until, ended_at, uses
FROM market.discounts WHERE discount_id = %(discount_id)s

-- name: discounts_of_seller
SELECT discount_id, code, seller_id, percent_bps, amounts_minor, minimum_minor, sku_ids, uses_max,
       uses_per_buyer_max, valid_from, valid_until, ended_at, uses
FROM market.discounts WHERE seller_id = %(seller_id)s AND discount_id < %(before)s
ORDER BY discount_id DESC LIMIT %(limit)s

-- name: all_discounts
SELECT discount_id, code, seller_id, percent_bps, amounts_minor, minimum_minor, sku_ids, uses_max,
       uses_per_buyer_max, valid_from, valid_until, ended_at, uses
FROM market.discounts WHERE discount_id < %(before)s
ORDER BY discount_id DESC LIMIT %(limit)s

-- name: count_use
-- Takes the code's row lock, so that of several orders at once each sees what the one before has left.
UPDATE market.discounts SET uses = uses + 1
WHERE discount_id = %(discount_id)s AND ended_at IS NULL AND (uses_max IS NULL OR uses < uses_max)
RETURNING uses_per_buyer_max

-- name: hold_use
-- Under that lock: nobody else counts this buyer's uses of this code meanwhile.
INSERT INTO market.discount_uses (order_id, discount_id, buyer_id)
SELECT %(order_id)s, %(discount_id)s, %(buyer_id)s
WHERE %(uses_per_buyer_max)s::int IS NULL OR %(uses_per_buyer_max)s::int > (
    SELECT count(*) FROM market.discount_uses
    WHERE discount_id = %(discount_id)s AND buyer_id = %(buyer_id)s)
RETURNING order_id

-- name: give_use_back
WITH freed AS (
    DELETE FROM market.discount_uses WHERE order_id = %(order_id)s RETURNING discount_id
)
UPDATE market.discounts AS d SET uses = d.uses - 1 FROM freed WHERE d.discount_id = freed.discount_id
RETURNING d.discount_id

-- name: lock_buyer
-- Free orders of one buyer come one after another, so that they can be counted.
SELECT pg_advisory_xact_lock(hashtextextended('free:' || %(buyer_id)s, 0))

-- name: free_orders_lately
SELECT count(*) FROM (
    SELECT FROM market.orders
    WHERE buyer_id = %(buyer_id)s AND total_minor = 0 AND created_at > now() - interval '1 day'
    LIMIT %(counted_max)s
) AS o
