-- Accounts, closed periods, reversals and summaries. What is refused here is refused to every role: the
-- checks run in triggers, inside the transaction that posts.

-- The chart of accounts. An account whose name matches a pattern is opened by its first posting; any other
-- must be declared first. The owner extends the chart by migration.
CREATE TABLE chart (
    pattern text COLLATE "C" PRIMARY KEY,  -- a name whose parts may be *: one part, whatever it says
    kind    text NOT NULL CHECK (kind IN ('asset', 'liability', 'income', 'expense', 'equity')),
    meaning text NOT NULL
);
INSERT INTO chart (pattern, kind, meaning) VALUES
    ('stripe:clearing',     'asset',     'money that Stripe holds for us'),
    ('cash:*',              'asset',     'money at a bank, by bank account'),
    ('buyer:*:receivable',  'asset',     'what a buyer owes us'),
    ('disputes',            'asset',     'money that banks hold while a dispute is open'),
    ('exchange:*',          'asset',     'the other side of a change of currency'),
    ('seller:*:payable',    'liability', 'what we owe a seller'),
    ('tax:*:payable',       'liability', 'tax collected for a jurisdiction'),
    ('payouts:in_transit',  'liability', 'payouts sent and not yet confirmed'),
    ('platform:fees',       'income',    'what we earn by sales'),
    ('refunds',             'expense',   'what refunds cost us'),
    ('stripe:fees',         'expense',   'what Stripe takes for payments'),
    ('stripe:dispute_fees', 'expense',   'what Stripe takes for disputes'),
    ('equity:*',            'equity',    'capital and opening balances');

CREATE TABLE accounts (
    account   text        COLLATE "C" PRIMARY KEY CHECK (length(account) <= 120
                              AND account ~ '^[a-z][a-z0-9_]*(:[A-Za-z0-9_]+){0,3}$'),
    kind      text        NOT NULL CHECK (kind IN ('asset', 'liability', 'income', 'expense', 'equity')),
    currency  text        COLLATE "C" CHECK (currency ~ '^[A-Z]{3}$'),  -- null: any
    declared  boolean     NOT NULL,  -- false: opened by its first posting
    opened_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz CHECK (closed_at >= opened_at),
    -- Splits are exact, to the unit: a difference has an owner, and no account hides it.
    CONSTRAINT accounts_no_rounding CHECK (account !~ '^rounding(:|$)')
);

CREATE FUNCTION chart_kind(name text) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog AS $$
    -- Names hold letters, digits, underscores and colons, so only * needs translation.
    SELECT kind FROM finance.chart WHERE name ~ ('^' || replace(pattern, '*', '[A-Za-z0-9_]+') || '$')
$$;

-- Accounts in use before there was a chart stay valid.
INSERT INTO accounts (account, kind, declared)
SELECT account, coalesce(finance.chart_kind(account), 'asset'), false
FROM (SELECT DISTINCT account FROM postings) used
WHERE account !~ '^rounding(:|$)';

CREATE FUNCTION refuse_change_of_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL AND (NEW.account, NEW.kind, NEW.declared, NEW.opened_at)
        = (OLD.account, OLD.kind, OLD.declared, OLD.opened_at) AND NEW.currency IS NOT DISTINCT FROM OLD.currency THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'an account can only be closed, once' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER accounts_closed_only BEFORE UPDATE ON accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_account();
CREATE TRIGGER accounts_kept BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A closed month closes all time before its end. Reopening does not exist.
CREATE TABLE closed_periods (
    month            date        PRIMARY KEY CHECK (month = date_trunc('month', month::timestamp)::date),
    ends_at          timestamptz NOT NULL UNIQUE,  -- the first instant after it, UTC
    closed_at        timestamptz NOT NULL DEFAULT now(),
    closed_by        text        NOT NULL CHECK (length(closed_by) BETWEEN 1 AND 200),
    through_entry_id bigint      NOT NULL  -- every entry of the month has this id or a smaller one
);
CREATE TRIGGER closed_periods_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON closed_periods
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Null for all but entries that came too late for their month, and reversals.
ALTER TABLE entries
    ADD COLUMN original_occurred_at timestamptz
        CHECK (isfinite(original_occurred_at) AND original_occurred_at < occurred_at),
    ADD COLUMN reverses_entry_id bigint;
CREATE UNIQUE INDEX entries_reversed_once ON entries (reverses_entry_id) WHERE reverses_entry_id IS NOT NULL;

-- The grammar of names is checked once per account, by its own table, instead of once per posting.
ALTER TABLE postings DROP CONSTRAINT postings_account_check;

-- Balances and statements by date; an account's entries in posting order.
CREATE INDEX postings_by_date ON postings (account, currency, occurred_at, entry_id, position)
    INCLUDE (amount_minor);
DROP INDEX postings_by_account;
CREATE INDEX postings_by_account ON postings (account, entry_id);
-- The last part of an hour, of all accounts. Entries come nearly in the order of their dates.
CREATE INDEX postings_by_occurrence ON postings USING brin (occurred_at)
    WITH (pages_per_range = 16, autosummarize = on);

-- Summaries. They only save time: every figure in them is a sum over postings, and they are written by
-- the functions below alone. `*:seller` and the like stand for all accounts of a root.
CREATE TABLE hour_movements (
    account       text        COLLATE "C" NOT NULL,
    currency      text        COLLATE "C" NOT NULL,
    hour          timestamptz NOT NULL,
    debit_minor   numeric     NOT NULL,
    credit_minor  numeric     NOT NULL,
    posting_count bigint      NOT NULL,
    PRIMARY KEY (account, currency, hour) INCLUDE (debit_minor, credit_minor, posting_count)
) WITH (fillfactor = 80);

-- The currencies of each account that are summed up.
CREATE TABLE used (
    account  text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, currency)
);

-- Totals of an account from its beginning to the end of a closed period in which it moved.
CREATE TABLE period_balances (
    account       text        COLLATE "C" NOT NULL,
    currency      text        COLLATE "C" NOT NULL,
    ends_at       timestamptz NOT NULL REFERENCES closed_periods (ends_at),
    debit_minor   numeric     NOT NULL,
    credit_minor  numeric     NOT NULL,
    posting_count bigint      NOT NULL,
    PRIMARY KEY (account, currency, ends_at)
);

-- `settled`: no entry with this id or a smaller one can appear any more. `summed`: hour_movements hold all
-- of them, `carried`: the last closed period (days since 1970) whose balances are written.
CREATE TABLE marks (
    name  text   PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO marks (name, value) VALUES ('settled', 0), ('summed', 0), ('carried', 0);

-- Ids are drawn at insertion and seen at commit. Whoever posts holds a lock on `entries` from before its ids
-- are drawn until all can see them: once the holders of this moment have gone, every id drawn so far is
-- settled. Nobody who posts waits for this.
CREATE FUNCTION settle() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE drawn bigint; posting text[]; deadline timestamptz := clock_timestamp() + interval '1 second';
BEGIN
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO drawn FROM finance.entries_entry_id_seq;
    SELECT array_agg(virtualtransaction) INTO posting FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'finance.entries'::regclass AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    WHILE EXISTS (
        SELECT FROM pg_locks WHERE virtualtransaction = ANY (posting) AND locktype = 'relation'
            AND relation = 'finance.entries'::regclass AND mode = 'RowExclusiveLock'
    ) LOOP
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'postings under way do not end' USING ERRCODE = 'lock_not_available';
        END IF;
        PERFORM pg_sleep(0.002);
    END LOOP;
    UPDATE finance.marks SET value = drawn WHERE name = 'settled' AND value < drawn;
    RETURN drawn;
END $$;

-- Adds up to `ids_max` settled ids to the summaries; returns how many settled ids are left.
CREATE FUNCTION sum_up(ids_max integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog SET enable_seqscan = off AS $$
DECLARE above bigint; through bigint; settled bigint;
BEGIN
    SELECT value INTO above FROM finance.marks WHERE name = 'summed' FOR UPDATE;
    SELECT value INTO settled FROM finance.marks WHERE name = 'settled';
    through := least(settled, above + ids_max);
    WITH moved AS (
        INSERT INTO finance.hour_movements AS known
        SELECT CASE WHEN grouping(account) = 0 THEN account ELSE '*:' || root END, currency, hour,
               coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0),
               coalesce(-sum(amount_minor) FILTER (WHERE amount_minor < 0), 0), count(*)
        FROM (
            SELECT account, split_part(account, ':', 1) AS root, currency, amount_minor,
                   date_trunc('hour', occurred_at, 'UTC') AS hour
            FROM finance.postings WHERE entry_id > above AND entry_id <= through
        ) added
        GROUP BY GROUPING SETS ((account, currency, hour), (root, currency, hour))
        ON CONFLICT (account, currency, hour) DO UPDATE SET
            debit_minor = known.debit_minor + excluded.debit_minor,
            credit_minor = known.credit_minor + excluded.credit_minor,
            posting_count = known.posting_count + excluded.posting_count
        RETURNING account, currency
    )
    INSERT INTO finance.used SELECT DISTINCT account, currency FROM moved ON CONFLICT DO NOTHING;
    UPDATE finance.marks SET value = through WHERE name = 'summed' AND value < through;
    RETURN settled - through;
END $$;

-- Writes the balances at the end of the oldest closed period that lacks them, once all of it is summed up.
CREATE FUNCTION carry_forward() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog SET enable_seqscan = off AS $$
DECLARE carried bigint; summed bigint; period record;
BEGIN
    SELECT value INTO carried FROM finance.marks WHERE name = 'carried' FOR UPDATE;
    SELECT value INTO summed FROM finance.marks WHERE name = 'summed';
    SELECT ends_at, month, through_entry_id INTO period FROM finance.closed_periods
    WHERE month - date '1970-01-01' > carried ORDER BY month LIMIT 1;
    IF NOT FOUND OR period.through_entry_id > summed THEN
        RETURN false;
    END IF;
    INSERT INTO finance.period_balances
    SELECT moved.account, moved.currency, period.ends_at, moved.debit_minor + coalesce(base.debit_minor, 0),
           moved.credit_minor + coalesce(base.credit_minor, 0), moved.posting_count + coalesce(base.posting_count, 0)
    FROM (
        SELECT account, currency, sum(debit_minor) AS debit_minor, sum(credit_minor) AS credit_minor,
               sum(posting_count)::bigint AS posting_count
        FROM finance.hour_movements
        WHERE hour < period.ends_at
          AND hour >= coalesce((SELECT max(ends_at) FROM finance.period_balances), '-infinity')
        GROUP BY account, currency
    ) moved
    LEFT JOIN LATERAL (
        SELECT * FROM finance.period_balances known
        WHERE known.account = moved.account AND known.currency = moved.currency
        ORDER BY known.ends_at DESC LIMIT 1
    ) base ON true;
    UPDATE finance.marks SET value = period.month - date '1970-01-01' WHERE name = 'carried';
    RETURN true;
END $$;

-- Debits, credits and number of an account's postings before an instant (`infinity`: all), of what is summed
-- up, in bounded time: the last closed period, whole hours since, the beginning of one hour.
CREATE FUNCTION totals_before(of_account text, of_currency text, before timestamptz,
    OUT debit_minor numeric, OUT credit_minor numeric, OUT posting_count bigint) LANGUAGE plpgsql STABLE
    SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    summed bigint; last_hour timestamptz := date_trunc('hour', before, 'UTC');
    base record; part record;
BEGIN
    SELECT known.* INTO base FROM finance.period_balances known
    WHERE known.account = of_account AND known.currency = of_currency AND known.ends_at <= before
    ORDER BY known.ends_at DESC LIMIT 1;
    SELECT coalesce(sum(h.debit_minor), 0) AS d, coalesce(sum(h.credit_minor), 0) AS c,
           coalesce(sum(h.posting_count), 0)::bigint AS n INTO part
    FROM finance.hour_movements h
    WHERE h.account = of_account AND h.currency = of_currency
      AND h.hour >= coalesce(base.ends_at, '-infinity') AND h.hour < last_hour;
    debit_minor := coalesce(base.debit_minor, 0) + part.d;
    credit_minor := coalesce(base.credit_minor, 0) + part.c;
    posting_count := coalesce(base.posting_count, 0) + part.n;
    IF before > last_hour THEN
        SELECT value INTO summed FROM finance.marks WHERE name = 'summed';
        SELECT coalesce(sum(p.amount_minor) FILTER (WHERE p.amount_minor > 0), 0) AS d,
               coalesce(-sum(p.amount_minor) FILTER (WHERE p.amount_minor < 0), 0) AS c, count(*) AS n INTO part
        FROM finance.postings p
        WHERE p.account = of_account AND p.currency = of_currency
          AND p.occurred_at >= last_hour AND p.occurred_at < before
          AND p.entry_id + 0 <= summed;  -- + 0: a filter only, or the plan walks the account's ids
        debit_minor := debit_minor + part.d;
        credit_minor := credit_minor + part.c;
        posting_count := posting_count + part.n;
    END IF;
END $$;

-- The next two are planned with their actual values (EXECUTE): a plan for any value would read whole accounts.

-- What is not summed up yet, by account and currency.
CREATE FUNCTION unsummed(lowest text, highest text, before timestamptz)
    RETURNS TABLE (account text, currency text, debit_minor numeric, credit_minor numeric, posting_count bigint)
    LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT account, currency, coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0),
                coalesce(-sum(amount_minor) FILTER (WHERE amount_minor < 0), 0), count(*)
         FROM finance.postings
         WHERE entry_id > $1 AND account BETWEEN $2 AND $3 AND occurred_at < $4 GROUP BY account, currency'
        USING (SELECT value FROM finance.marks WHERE name = 'summed'), lowest, highest, before;
END $$;

-- The beginning of one hour, summed up, by the root of accounts.
CREATE FUNCTION roots_between(of_currency text, since timestamptz, before timestamptz)
    RETURNS TABLE (root text, debit_minor numeric, credit_minor numeric, posting_count bigint)
    LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT split_part(account, '':'', 1), coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0),
                coalesce(-sum(amount_minor) FILTER (WHERE amount_minor < 0), 0), count(*)
         FROM finance.postings
         WHERE occurred_at >= $1 AND occurred_at < $2 AND currency = $3 AND entry_id + 0 <= $4 GROUP BY 1'
        USING since, before, of_currency, (SELECT value FROM finance.marks WHERE name = 'summed');
END $$;

-- Closing waits for the postings under way and holds up new ones for as long as this statement runs, so
-- that no entry slips into a closed period, or onto a closed account, that was open when it was checked.
CREATE FUNCTION close_period(of_month date, by_whom text) RETURNS SETOF closed_periods LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s' AS $$
DECLARE after_it timestamptz := (of_month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
BEGIN
    LOCK TABLE finance.entries IN SHARE MODE;
    IF NOT EXISTS (SELECT FROM finance.closed_periods WHERE ends_at >= after_it) THEN
        IF after_it > now() THEN
            RAISE EXCEPTION 'the month is not over' USING ERRCODE = 'check_violation', CONSTRAINT = 'period_over';
        END IF;
        INSERT INTO finance.closed_periods (month, ends_at, closed_by, through_entry_id)
        SELECT of_month, after_it, by_whom, coalesce(max(entry_id), 0) FROM finance.entries;
    END IF;
    -- A month before a closed one is closed by that one.
    RETURN QUERY SELECT * FROM finance.closed_periods WHERE ends_at >= after_it ORDER BY ends_at LIMIT 1;
END $$;

CREATE FUNCTION close_account(name text) RETURNS SETOF accounts LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s' SET enable_seqscan = off AS $$
DECLARE open_in text;
BEGIN
    LOCK TABLE finance.entries IN SHARE MODE;
    SELECT sums.currency INTO open_in
    FROM (
        SELECT used.currency, totals.debit_minor, totals.credit_minor FROM finance.used
        CROSS JOIN LATERAL finance.totals_before(name, used.currency, 'infinity') totals WHERE used.account = name
        UNION ALL
        SELECT currency, debit_minor, credit_minor FROM finance.unsummed(name, name, 'infinity')
    ) sums
    GROUP BY sums.currency HAVING sum(sums.debit_minor) <> sum(sums.credit_minor) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'account % has a balance', name
            USING ERRCODE = 'check_violation', CONSTRAINT = 'accounts_empty', DETAIL = open_in;
    END IF;
    UPDATE finance.accounts SET closed_at = now() WHERE account = name AND closed_at IS NULL;
    RETURN QUERY SELECT * FROM finance.accounts WHERE account = name;
END $$;

-- As before, and: no entry of a closed period; a reversal mirrors its entry, leg by leg.
CREATE OR REPLACE FUNCTION require_whole_entries() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE broken record; closed_until timestamptz;
BEGIN
    SELECT max(ends_at) INTO closed_until FROM finance.closed_periods;
    SELECT added.entry_key, legs.n, added.posting_count, legs.sum_minor, added.occurred_at < closed_until AS late
    INTO broken
    FROM added CROSS JOIN LATERAL (
        SELECT count(*) AS n, max(position) AS last, coalesce(sum(amount_minor), 0) AS sum_minor
        FROM finance.postings WHERE postings.entry_id = added.entry_id
    ) legs
    WHERE legs.sum_minor <> 0 OR legs.n <> added.posting_count OR legs.last <> added.posting_count
       OR added.occurred_at < closed_until
    LIMIT 1;
    IF FOUND THEN
        IF broken.late THEN
            RAISE EXCEPTION 'entry % belongs to a closed period', broken.entry_key
                USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_period_open',
                      DETAIL = to_char(closed_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
        END IF;
        RAISE EXCEPTION 'entry % has % of % postings and they sum to %',
            broken.entry_key, broken.n, broken.posting_count, broken.sum_minor
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_whole';
    END IF;
    IF EXISTS (SELECT FROM added WHERE reverses_entry_id IS NOT NULL) THEN
        PERFORM FROM added
        LEFT JOIN finance.entries reversed ON reversed.entry_id = added.reverses_entry_id
        WHERE added.reverses_entry_id IS NOT NULL AND (
            reversed.entry_id IS NULL OR reversed.reverses_entry_id IS NOT NULL
            OR reversed.currency <> added.currency OR reversed.posting_count <> added.posting_count
            OR reversed.occurred_at > added.occurred_at
            OR EXISTS (
                SELECT FROM finance.postings mine
                LEFT JOIN finance.postings theirs
                    ON theirs.entry_id = added.reverses_entry_id AND theirs.position = mine.position
                    AND theirs.account = mine.account AND theirs.amount_minor = -mine.amount_minor
                WHERE mine.entry_id = added.entry_id AND theirs.entry_id IS NULL
            )
        );
        IF FOUND THEN
            RAISE EXCEPTION 'a reversal does not mirror the entry that it names'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_mirror';
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- As before, and: every account is known (or opened by the chart), open, and of the entry's currency.
CREATE OR REPLACE FUNCTION require_entry_of_postings() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE stray record;
BEGIN
    FOR attempt IN 1..2 LOOP
        SELECT added.entry_id, added.account, known.account AS known, known.closed_at, known.currency,
               entries.entry_id IS NULL OR added.position > entries.posting_count
               OR added.currency <> entries.currency OR added.occurred_at <> entries.occurred_at AS homeless
        INTO stray
        FROM added
        LEFT JOIN finance.entries ON entries.entry_id = added.entry_id
        LEFT JOIN finance.accounts known ON known.account = added.account
        WHERE entries.entry_id IS NULL OR added.position > entries.posting_count
           OR added.currency <> entries.currency OR added.occurred_at <> entries.occurred_at
           OR known.account IS NULL OR known.closed_at IS NOT NULL OR known.currency <> added.currency
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        EXIT WHEN stray.homeless OR stray.known IS NOT NULL OR attempt = 2;
        -- In order, so that two transactions that open the same accounts never wait in a cycle.
        INSERT INTO finance.accounts (account, kind, declared)
        SELECT fresh.account, finance.chart_kind(fresh.account), false
        FROM (
            SELECT DISTINCT added.account FROM added
            LEFT JOIN finance.accounts known ON known.account = added.account WHERE known.account IS NULL
        ) fresh
        WHERE finance.chart_kind(fresh.account) IS NOT NULL
        ORDER BY fresh.account COLLATE "C"
        ON CONFLICT (account) DO NOTHING;
    END LOOP;
    IF stray.homeless THEN
        RAISE EXCEPTION 'a posting does not belong to entry %', stray.entry_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_belong';
    ELSIF stray.known IS NULL THEN
        RAISE EXCEPTION 'account % is not in the chart of accounts', stray.account
            USING ERRCODE = 'check_violation', CONSTRAINT = 'accounts_known', DETAIL = stray.account;
    ELSIF stray.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'account % is closed', stray.account
            USING ERRCODE = 'check_violation', CONSTRAINT = 'accounts_open', DETAIL = stray.account;
    END IF;
    RAISE EXCEPTION 'account % is kept in %', stray.account, stray.currency
        USING ERRCODE = 'check_violation', CONSTRAINT = 'accounts_currency',
              DETAIL = stray.account || ' ' || stray.currency;
END $$;

ALTER TABLE accounts ENABLE ALWAYS TRIGGER accounts_closed_only, ENABLE ALWAYS TRIGGER accounts_kept;
ALTER TABLE closed_periods ENABLE ALWAYS TRIGGER closed_periods_immutable;

-- Closing is by function only. The service reads everything and opens accounts.
REVOKE EXECUTE ON FUNCTION settle, sum_up, carry_forward, close_period, close_account FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'finance_app') THEN
        GRANT SELECT ON chart, accounts, closed_periods, hour_movements, used, period_balances, marks TO finance_app;
        GRANT INSERT (account, kind, currency, declared) ON accounts TO finance_app;
        GRANT EXECUTE ON FUNCTION settle, sum_up, carry_forward, close_period, close_account TO finance_app;
    END IF;
END $$;
