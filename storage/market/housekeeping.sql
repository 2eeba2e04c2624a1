-- name: be_alone
-- Held until the transaction ends, which it does when the process dies or hangs.
SELECT pg_try_advisory_xact_lock(%(lock)s)

-- name: purge_commands
-- By ctid: a plan that cannot become a join with the whole table, whatever Postgres thinks of LIMIT.
DELETE FROM market.commands WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM market.commands
    WHERE created_at < now() - %(kept_days)s * interval '1 day' ORDER BY created_at LIMIT %(limit)s
))

-- name: purge_webhooks
-- Dead letters are not processed: they stay until an operator decides about them.
DELETE FROM market.inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM market.inbox
    WHERE processed_at < now() - %(kept_days)s * interval '1 day' ORDER BY processed_at LIMIT %(limit)s
))

-- name: purge_delivery_links
-- The counts go as well: a window is an hour, so whatever is as old as a record closed long ago.
WITH windows AS (
    DELETE FROM market.delivery_link_windows WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM market.delivery_link_windows
        WHERE opened_at < now() - %(kept_days)s * interval '1 day' ORDER BY opened_at LIMIT %(limit)s
    ))
)
DELETE FROM market.delivery_links WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM market.delivery_links
    WHERE issued_at < now() - %(kept_days)s * interval '1 day' ORDER BY issued_at LIMIT %(limit)s
))
