-- Balances and statements. Instants are exclusive: what occurred before them counts ('infinity': everything).

-- name: account_balance
SELECT coalesce(sum(debit_minor), 0) - coalesce(sum(credit_minor), 0), coalesce(sum(posting_count), 0)::bigint
FROM (
    SELECT debit_minor, credit_minor, posting_count
    FROM finance.totals_before(%(account)s, %(currency)s, %(before)s::timestamptz)
    UNION ALL
    SELECT debit_minor, credit_minor, posting_count
    FROM finance.unsummed(%(account)s, %(account)s, %(before)s::timestamptz) WHERE currency = %(currency)s
) parts;

-- name: balances_page
-- Accounts and currencies with postings, after those of the cursor, each with its balance. What is not summed
-- up yet is asked without the instant: a balance of 0 is a balance.
WITH fresh AS MATERIALIZED (
    SELECT account, currency FROM finance.unsummed(%(lowest)s, %(above)s, 'infinity')
    WHERE (account, currency) > (%(after_account)s, %(after_currency)s)
      AND (%(only)s::text IS NULL OR currency = %(only)s)
), pairs AS (
    (
        SELECT account, currency FROM finance.used
        WHERE account >= %(lowest)s AND account < %(above)s
          AND (account, currency) > (%(after_account)s, %(after_currency)s)
          AND (%(only)s::text IS NULL OR currency = %(only)s)
        ORDER BY account, currency LIMIT %(limit)s
    )
    UNION
    SELECT account, currency FROM fresh
), page AS MATERIALIZED (
    SELECT account, currency FROM pairs ORDER BY account COLLATE "C", currency COLLATE "C" LIMIT %(limit)s
), figures AS (
    SELECT page.account, page.currency, totals.debit_minor, totals.credit_minor
    FROM page CROSS JOIN LATERAL finance.totals_before(account, currency, %(before)s::timestamptz) totals
    UNION ALL
    SELECT late.account, late.currency, late.debit_minor, late.credit_minor
    FROM finance.unsummed(%(lowest)s, %(above)s, %(before)s::timestamptz) late JOIN page USING (account, currency)
)
SELECT account, currency, sum(debit_minor), sum(credit_minor)
FROM figures GROUP BY account, currency ORDER BY account COLLATE "C", currency COLLATE "C";

-- name: trial_balance
-- Debits and credits per leading part of the account name, and in all (part null, first).
WITH asked AS MATERIALIZED (
    SELECT %(before)s::timestamptz AS before, date_trunc('hour', %(before)s::timestamptz, 'UTC') AS last_hour
), figures AS (
    -- Whole hours, from the summaries of each root.
    SELECT substr(used.account, 3) AS part, totals.debit_minor, totals.credit_minor, totals.posting_count
    FROM asked CROSS JOIN finance.used
    CROSS JOIN LATERAL finance.totals_before(used.account, used.currency, asked.last_hour) totals
    WHERE used.account >= '*:' AND used.account < '*;' AND used.currency = %(currency)s
    UNION ALL
    SELECT late.root, late.debit_minor, late.credit_minor, late.posting_count
    FROM asked CROSS JOIN LATERAL finance.roots_between(%(currency)s, asked.last_hour, asked.before) late
    WHERE asked.before > asked.last_hour
    UNION ALL
    SELECT split_part(late.account, ':', 1), late.debit_minor, late.credit_minor, late.posting_count
    FROM asked CROSS JOIN LATERAL finance.unsummed('', '{', asked.before) late WHERE late.currency = %(currency)s
)
SELECT part, coalesce(sum(debit_minor), 0), coalesce(sum(credit_minor), 0), coalesce(sum(posting_count), 0)
FROM figures GROUP BY GROUPING SETS ((), (part))
HAVING grouping(part) = 1 OR sum(posting_count) > 0
ORDER BY grouping(part) DESC, part LIMIT %(limit)s;

-- name: statement_summary
-- Opening balance, debits, credits and lines of a statement, and up to which entry they count.
SELECT opening.debit_minor - opening.credit_minor, closing.debit_minor - opening.debit_minor,
       closing.credit_minor - opening.credit_minor, closing.posting_count - opening.posting_count,
       (SELECT value FROM finance.marks WHERE name = 'summed')
FROM finance.totals_before(%(account)s, %(currency)s, %(since)s::timestamptz) opening,
     finance.totals_before(%(account)s, %(currency)s, %(until)s::timestamptz) closing;

-- name: statement_lines
SELECT p.occurred_at, p.entry_id, p.position, e.entry_key, e.original_occurred_at, e.posted_at, e.description,
       p.amount_minor
FROM finance.postings p JOIN finance.entries e USING (entry_id)
WHERE p.account = %(account)s AND p.currency = %(currency)s
  AND (p.occurred_at, p.entry_id, p.position) > (%(after)s::timestamptz, %(after_id)s, %(after_position)s)
  AND p.occurred_at < %(until)s::timestamptz
  -- + 0: a filter only, or the plan walks the account's ids.
  AND p.entry_id + 0 <= %(through)s
ORDER BY p.occurred_at, p.entry_id, p.position LIMIT %(limit)s;
