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
