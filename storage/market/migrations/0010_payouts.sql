-- Payouts: what we owe payees, sent once per payee, currency and period (ADR 0012). Amounts are minor units; what
-- we owe is positive.

-- Whom we pay. The account that counts is the last one named; every one ever named is on record.
CREATE TABLE payees (
    payee_id        text COLLATE "C" PRIMARY KEY CHECK (payee_id ~ '^[A-Za-z0-9_]{1,100}$'),
    account_id      text        NOT NULL CHECK (account_id ~ '^acct_[A-Za-z0-9_]{1,100}$'),
    transfers       text        NOT NULL,  -- Stripe's word for the capability
    payouts_enabled boolean     NOT NULL,
    named_by        text        NOT NULL,
    named_at        timestamptz NOT NULL,
    checked_at      timestamptz NOT NULL
);
CREATE TABLE payee_accounts (
    payee_id   text COLLATE "C" NOT NULL REFERENCES payees,
    account_id text        NOT NULL,
    named_by   text        NOT NULL,
    named_at   timestamptz NOT NULL,
    position   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY
);
CREATE INDEX payee_accounts_by_payee ON payee_accounts (payee_id, position);
CREATE TRIGGER payee_accounts_are_facts BEFORE UPDATE OR DELETE ON payee_accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- One batch per period and currency, unless it was withdrawn. Whoever drafted it does not approve it.
CREATE TABLE payout_batches (
    batch_id      text COLLATE "C" PRIMARY KEY,
    period        text        NOT NULL CHECK (period ~ '^20[0-9]{2}-(W[0-9]{2}|[0-9]{2})$'),
    currency      text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    fees_version  int         NOT NULL,  -- of the governed platform_fees, whose terms these are
    holdback_bps  int         NOT NULL CHECK (holdback_bps BETWEEN 0 AND 10000),
    holdback_days int         NOT NULL CHECK (holdback_days >= 0),
    minimum_minor bigint      NOT NULL CHECK (minimum_minor >= 0),
    cut_at        timestamptz NOT NULL,  -- what occurred at Finance up to then is in the lines
    status        text        NOT NULL DEFAULT 'drafted' CHECK (status IN ('drafted', 'approved', 'withdrawn')),
    drafted_by    text        NOT NULL,
    drafted_at    timestamptz NOT NULL,
    decided_by    text,
    decided_at    timestamptz,
    reason        text,
    CHECK ((status = 'drafted') = (decided_by IS NULL)),
    CONSTRAINT payout_batches_two_operators CHECK (status <> 'approved' OR decided_by <> drafted_by)
);
CREATE UNIQUE INDEX payout_batches_standing ON payout_batches (currency, period) WHERE status <> 'withdrawn';

CREATE FUNCTION refuse_redeciding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'drafted' OR to_jsonb(NEW) - '{status,decided_by,decided_at,reason}'::text[]
        <> to_jsonb(OLD) - '{status,decided_by,decided_at,reason}'::text[] THEN
        RAISE EXCEPTION 'a batch is a fact but for its one decision' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payout_batches_are_decided_once BEFORE UPDATE ON payout_batches
    FOR EACH ROW EXECUTE FUNCTION refuse_redeciding();

-- What a batch says of each payee. The three parts are the whole.
CREATE TABLE payout_lines (
    batch_id         text COLLATE "C" NOT NULL REFERENCES payout_batches,
    payee_id         text COLLATE "C" NOT NULL,
    closing_minor    bigint NOT NULL,
    returned_minor   bigint NOT NULL CHECK (returned_minor >= 0),
    sold_minor       bigint NOT NULL CHECK (sold_minor >= 0),
    paid_minor       bigint NOT NULL CHECK (paid_minor >= 0),
    carried_minor    bigint NOT NULL,
    held_back_minor  bigint NOT NULL CHECK (held_back_minor >= 0),
    reason           text,
    account_id       text,
    account_named_at timestamptz,
    PRIMARY KEY (batch_id, payee_id),
    CHECK (paid_minor + carried_minor + held_back_minor = closing_minor - returned_minor),
    CHECK ((paid_minor > 0) = (reason IS NULL)),
    CHECK (paid_minor = 0 OR account_id IS NOT NULL)
);
CREATE TRIGGER payout_lines_are_facts BEFORE UPDATE OR DELETE ON payout_lines
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- One payout per payee, currency and period (invariant I7). The events are the truth; the row is the fence (`seq`),
-- the index and the to-do: `due_at` is null when nothing is to be done. `position` is drawn under a lock, so it is
-- the order of approval.
CREATE TABLE payouts (
    payout_id    text COLLATE "C" PRIMARY KEY,
    batch_id     text COLLATE "C" NOT NULL REFERENCES payout_batches,
    payee_id     text COLLATE "C" NOT NULL,
    currency     text        NOT NULL,
    period       text        NOT NULL,
    account_id   text        NOT NULL,
    amount_minor bigint      NOT NULL CHECK (amount_minor > 0),  -- the most that may be sent
    status       text        NOT NULL DEFAULT 'approved' CHECK (status IN
        ('approved', 'cleared', 'booked', 'sent', 'settled', 'refused', 'failed', 'returned')),
    seq          int         NOT NULL DEFAULT 1,
    nudges       int         NOT NULL DEFAULT 0,
    due_at       timestamptz DEFAULT now(),
    attempts     int         NOT NULL DEFAULT 0,
    unforeseen   int         NOT NULL DEFAULT 0,
    last_error   text,
    dead_at      timestamptz,
    dead_code    text,
    position     bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    CONSTRAINT payouts_once_per_period UNIQUE (payee_id, currency, period)
);
CREATE INDEX payouts_due ON payouts (due_at) WHERE due_at IS NOT NULL AND dead_at IS NULL;
CREATE INDEX payouts_unfinished ON payouts (payee_id, currency, position)
    WHERE status IN ('approved', 'cleared', 'booked', 'sent', 'refused');
CREATE INDEX payouts_by_payee ON payouts (payee_id, payout_id DESC);
CREATE INDEX payouts_by_batch ON payouts (batch_id, status);

CREATE TABLE payout_events (
    payout_id text COLLATE "C" NOT NULL REFERENCES payouts,
    seq       int         NOT NULL CHECK (seq > 0),
    kind      text        NOT NULL,
    data      jsonb       NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payout_id, seq)
);
CREATE TRIGGER payout_events_are_facts BEFORE UPDATE OR DELETE ON payout_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Whoever inserts a payout: it is a line of an approved batch, with that line's amount and account.
CREATE FUNCTION require_approved_line() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM payout_batches AS b JOIN payout_lines AS l USING (batch_id)
        WHERE b.batch_id = NEW.batch_id AND b.status = 'approved' AND l.payee_id = NEW.payee_id
          AND (b.currency, b.period, l.account_id, l.paid_minor)
            = (NEW.currency, NEW.period, NEW.account_id, NEW.amount_minor)
    ) THEN
        RAISE EXCEPTION 'a payout is a line of an approved batch' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payouts_are_approved BEFORE INSERT ON payouts
    FOR EACH ROW EXECUTE FUNCTION require_approved_line();

CREATE FUNCTION refuse_readdressing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'whom a payout pays, and how much at most, is a fact'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER payouts_stay_addressed BEFORE UPDATE ON payouts FOR EACH ROW
    WHEN ((OLD.payout_id, OLD.batch_id, OLD.payee_id, OLD.currency, OLD.period, OLD.account_id, OLD.amount_minor)
        IS DISTINCT FROM
        (NEW.payout_id, NEW.batch_id, NEW.payee_id, NEW.currency, NEW.period, NEW.account_id, NEW.amount_minor))
    EXECUTE FUNCTION refuse_readdressing();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT ON payees, payee_accounts, payout_batches, payout_lines, payouts, payout_events
            TO market_app;
        GRANT UPDATE ON payees TO market_app;
        GRANT UPDATE (status, decided_by, decided_at, reason) ON payout_batches TO market_app;
        GRANT UPDATE (status, seq, nudges, due_at, attempts, unforeseen, last_error, dead_at, dead_code)
            ON payouts TO market_app;
    END IF;
END $$;
