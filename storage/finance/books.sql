-- Accounts, periods and upkeep. The functions are those of migrations/0002_books.sql.

-- name: declare_account
INSERT INTO finance.accounts (account, kind, currency, declared) VALUES (%s, %s, %s, true)
ON CONFLICT (account) DO NOTHING
RETURNING account, kind, currency, declared, opened_at, closed_at;

-- name: account_by_name
SELECT account, kind, currency, declared, opened_at, closed_at FROM finance.accounts WHERE account = %s;

-- name: close_account
SELECT account, kind, currency, declared, opened_at, closed_at FROM finance.close_account(%s);

-- name: close_period
SELECT month, closed_at, closed_by FROM finance.close_period(%s, %s);

-- name: closed_periods_page
SELECT month, closed_at, closed_by FROM finance.closed_periods
WHERE month < coalesce(%s::date, 'infinity') ORDER BY month DESC LIMIT %s;

-- name: backlog
SELECT coalesce((SELECT max(entry_id) FROM finance.entries), 0)
     - (SELECT value FROM finance.marks WHERE name = 'summed');

-- name: settle
SELECT finance.settle();

-- name: sum_up
SELECT finance.sum_up(%s);

-- name: carry_forward
SELECT finance.carry_forward();
