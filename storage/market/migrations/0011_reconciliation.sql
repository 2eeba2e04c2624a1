-- Reconciliation: differences between orders, Finance and Stripe that are kept as cases, and the runs that look.

-- One row per difference, by what differs: a second run finds the row and changes nothing. Closed cases stay.
CREATE TABLE reconciliation_cases (
    case_id            text COLLATE "C" PRIMARY KEY,
    kind               text        NOT NULL,
    order_id           text COLLATE "C" NOT NULL,  -- empty: about no order
    subject            text        NOT NULL,
    status             text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved', 'dismissed')),
    happened_at        timestamptz NOT NULL,
    currency           text        NOT NULL,
    expected_minor     bigint,
    actual_minor       bigint,
    detail             text        NOT NULL,
    evidence           jsonb       NOT NULL,
    fix                text CHECK (fix IN ('tell_order', 'post', 'reverse', 'rebook')),  -- null: a person has to decide
    opened_at          timestamptz NOT NULL DEFAULT now(),
    changed_at         timestamptz NOT NULL DEFAULT now(),
    apply_requested_by text,
    apply_requested_at timestamptz,
    applied_at         timestamptz,
    closed_at          timestamptz,
    closed_by          text,  -- null on a closed one: it closed by itself
    reason             text,
    CHECK ((status = 'open') = (closed_at IS NULL)),
    CHECK (status <> 'dismissed' OR (closed_by IS NOT NULL AND reason IS NOT NULL)),
    CHECK ((apply_requested_by IS NULL) = (apply_requested_at IS NULL))
);
CREATE INDEX reconciliation_cases_by_time ON reconciliation_cases (opened_at, case_id);
CREATE INDEX reconciliation_cases_open ON reconciliation_cases (order_id) WHERE status = 'open';

-- What was looked at, when and with which result.
CREATE TABLE reconciliation_runs (
    run_id      text COLLATE "C" PRIMARY KEY,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL CHECK (until >= since),
    daily       boolean     NOT NULL,
    complete    boolean     NOT NULL,  -- false: it stopped at a bound, and the window has to be looked at again
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    report      jsonb       NOT NULL
);
CREATE INDEX reconciliation_runs_daily ON reconciliation_runs (until) WHERE daily AND complete;

-- Which orders had money go back in a window. Few events are of these kinds, so selling pays nothing for it.
CREATE INDEX order_events_of_returns ON order_events (at)
    WHERE kind IN ('order.refund_accepted', 'order.refund_failed', 'order.disputed', 'order.dispute_updated',
                   'order.dispute_won', 'order.dispute_lost');

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT, UPDATE ON reconciliation_cases TO market_app;
        GRANT SELECT, INSERT ON reconciliation_runs TO market_app;
    END IF;
END $$;
