-- Finance's books for the invariant checker. Keys of an order's entries are `<order_id>:<what>`.

-- name: clock
SELECT now()

-- name: entries_of_page
-- All entries whose keys lie between the bounds (null: no bound), of orders or not.
-- An entry that is reversed, and its reversal, come to nothing.
SELECT e.entry_key, e.currency, e.posted_at, legs.accounts, legs.amounts,
       e.reverses_entry_id IS NOT NULL
       OR EXISTS (SELECT FROM finance.entries r WHERE r.reverses_entry_id = e.entry_id)
FROM finance.entries e
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
WHERE (%(above)s::text IS NULL OR e.entry_key > %(above)s) AND (%(below)s::text IS NULL OR e.entry_key < %(below)s)
ORDER BY e.entry_key

-- name: clearing
SELECT currency, sum(amount_minor)::bigint FROM finance.postings WHERE account = %(clearing)s GROUP BY currency

-- name: ledger_totals
-- One statement over all postings before the cut: the sums that no page has a part in.
SELECT p.currency, coalesce(sum(p.amount_minor) FILTER (WHERE p.account = %(clearing)s), 0)::bigint,
       sum(p.amount_minor)::bigint
FROM finance.postings p JOIN finance.entries e USING (entry_id)
WHERE e.posted_at < %(cut)s
GROUP BY p.currency
