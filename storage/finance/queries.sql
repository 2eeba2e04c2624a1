-- name: post_entries
-- Post a batch in one statement, whole or not at all. The parameter is a JSON array in the order of
-- entry_key: two overlapping batches then wait for each other's keys in the same order, never in a cycle.
-- Returns one row per key that is now posted and visible, fresh or not. A key is missing when another
-- session committed it while this statement ran: entries_by_keys finds it then.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::text::json) AS input (
        k text, c text, t timestamptz, d text, h text, n smallint, a text[], m bigint[])
), fresh AS (
    INSERT INTO finance.entries (entry_key, currency, occurred_at, description, content_digest, posting_count)
    SELECT k, c, t, d, decode(h, 'hex'), n FROM input ORDER BY k COLLATE "C"
    ON CONFLICT (entry_key) DO NOTHING
    RETURNING entry_id, entry_key, posted_at, content_digest
), legs AS (
    INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
    SELECT fresh.entry_id, leg.position, leg.account, leg.amount_minor, input.c, input.t
    FROM fresh JOIN input ON input.k = fresh.entry_key
    CROSS JOIN LATERAL unnest(input.a, input.m) WITH ORDINALITY AS leg (account, amount_minor, position)
)
SELECT entry_key, entry_id, posted_at, content_digest, true AS fresh FROM fresh
UNION ALL
SELECT known.entry_key, known.entry_id, known.posted_at, known.content_digest, false
FROM input CROSS JOIN LATERAL (
    -- LIMIT keeps this one index probe per key whatever the statistics say when the plan is made.
    SELECT * FROM finance.entries WHERE entry_key = input.k LIMIT 1
) known;

-- name: entries_by_keys
SELECT entry_key, entry_id, posted_at, content_digest, false AS fresh
FROM finance.entries WHERE entry_key = ANY(%s);

-- name: entry_by_key
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description,
       array_agg(p.account ORDER BY p.position), array_agg(p.amount_minor ORDER BY p.position)
FROM finance.entries e JOIN finance.postings p USING (entry_id)
WHERE e.entry_key = %s
GROUP BY e.entry_id;

-- name: entries_page
-- All entries in posting order, after the entry id of the cursor.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, legs.accounts, legs.amounts
FROM (SELECT * FROM finance.entries WHERE entry_id > %s ORDER BY entry_id LIMIT %s) e
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY e.entry_id;

-- name: entries_page_of_account
-- The same for the entries that touch one account. Parameters: account, after entry id, limit.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, legs.accounts, legs.amounts
FROM (
    SELECT DISTINCT entry_id FROM finance.postings
    WHERE account = %s AND entry_id > %s ORDER BY entry_id LIMIT %s
) touched
JOIN finance.entries e USING (entry_id)
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY e.entry_id;

-- name: account_balance
-- Parameters: account, currency, as of (null: everything posted).
SELECT coalesce(sum(amount_minor), 0)::bigint, count(*)
FROM finance.postings
WHERE account = %s AND currency = %s AND occurred_at <= coalesce(%s::timestamptz, 'infinity');

-- name: balances_page
-- Balances by account and currency, in that order. Parameters: lowest account (included), bound above
-- (excluded), account and currency of the cursor, limit.
SELECT account, currency, sum(amount_minor)::bigint
FROM finance.postings
WHERE account >= %s AND account < %s AND (account, currency) > (%s, %s)
GROUP BY account, currency ORDER BY account, currency LIMIT %s;

-- name: trial_balance
-- Debits and credits per leading part of the account name, and in all (part null, first).
SELECT split_part(account, ':', 1) AS part,
       coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0)::bigint AS debit_minor,
       coalesce(-sum(amount_minor) FILTER (WHERE amount_minor < 0), 0)::bigint AS credit_minor,
       count(*) AS posting_count
FROM finance.postings
WHERE currency = %s AND occurred_at <= coalesce(%s::timestamptz, 'infinity')
GROUP BY GROUPING SETS ((), (split_part(account, ':', 1)))
ORDER BY grouping(split_part(account, ':', 1)) DESC, part LIMIT %s;

-- name: ready
SELECT 1 FROM finance.entries LIMIT 1;
