-- The ledger. Rows are only ever added; triggers hold that against every role, the owner included.
-- Checks are per statement, on transition tables: their cost is shared by all entries of a batch.

CREATE TABLE entries (
    -- Drawn at insertion, so it orders entries by posting; gaps are normal (a replay draws one too).
    entry_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_key      text        COLLATE "C" NOT NULL UNIQUE CHECK (entry_key ~ '^[A-Za-z0-9_.:/-]{1,200}$'),
    currency       text        COLLATE "C" NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    occurred_at    timestamptz NOT NULL CHECK (isfinite(occurred_at)),
    posted_at      timestamptz NOT NULL DEFAULT now(),
    description    text        NOT NULL CHECK (length(description) <= 500),
    -- SHA-256 of the content: a repeated key is a replay when the digests agree, else a conflict.
    content_digest bytea       NOT NULL CHECK (length(content_digest) = 32),
    posting_count  smallint    NOT NULL CHECK (posting_count BETWEEN 2 AND 200)
);

-- Currency and date are repeated from the entry so that a balance is one index-only scan. That they
-- agree with the entry, and that the entry exists, is checked by postings_belong: a foreign key would
-- lock the entry's row once per posting for rows that nobody can update or delete.
CREATE TABLE postings (
    entry_id     bigint      NOT NULL,
    position     smallint    NOT NULL CHECK (position > 0),
    account      text        COLLATE "C" NOT NULL CHECK (length(account) <= 120
                                 AND account ~ '^[a-z][a-z0-9_]*(:[A-Za-z0-9_]+){0,3}$'),
    amount_minor bigint      NOT NULL CHECK (amount_minor <> 0
                                 AND amount_minor BETWEEN -9007199254740991 AND 9007199254740991),
    currency     text        COLLATE "C" NOT NULL,
    occurred_at  timestamptz NOT NULL,
    PRIMARY KEY (entry_id, position)
);

-- Balances (no stored balance row: every order touches the platform's accounts, and such a row would
-- make all orders queue for it) and an account's entries in posting order.
CREATE INDEX postings_by_account ON postings (account, entry_id) INCLUDE (currency, occurred_at, amount_minor);

-- Insert-only tables: keep the visibility map fresh, or index-only scans visit the heap.
ALTER TABLE postings SET (autovacuum_vacuum_insert_scale_factor = 0.02);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'finance.% is append-only: % is refused, post a reversal instead', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER entries_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER postings_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON postings
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- An entry is written with all its postings by one statement, and is balanced at its end. The settings
-- keep the plan on the primary key even while the table is small, for plans are kept by the session.
CREATE FUNCTION require_whole_entries() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE broken record;
BEGIN
    SELECT added.entry_key, legs.n, added.posting_count, legs.sum_minor INTO broken
    FROM added CROSS JOIN LATERAL (
        SELECT count(*) AS n, max(position) AS last, coalesce(sum(amount_minor), 0) AS sum_minor
        FROM finance.postings WHERE postings.entry_id = added.entry_id
    ) legs
    WHERE legs.sum_minor <> 0 OR legs.n <> added.posting_count OR legs.last <> added.posting_count
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry % has % of % postings and they sum to %',
            broken.entry_key, broken.n, broken.posting_count, broken.sum_minor
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_whole';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER entries_whole AFTER INSERT ON entries REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION require_whole_entries();

-- A posting belongs to an entry of the same currency and date. All positions 1..posting_count exist
-- from the entry's own statement on, so a later posting meets the primary key or this bound.
CREATE FUNCTION require_entry_of_postings() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE stray bigint;
BEGIN
    SELECT added.entry_id INTO stray
    FROM added LEFT JOIN finance.entries ON entries.entry_id = added.entry_id
    WHERE entries.entry_id IS NULL OR added.position > entries.posting_count
       OR added.currency <> entries.currency OR added.occurred_at <> entries.occurred_at
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'a posting does not belong to entry %', stray
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_belong';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER postings_belong AFTER INSERT ON postings REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION require_entry_of_postings();

-- Also for sessions in replication mode, which would skip ordinary triggers.
ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_immutable, ENABLE ALWAYS TRIGGER entries_whole;
ALTER TABLE postings ENABLE ALWAYS TRIGGER postings_immutable, ENABLE ALWAYS TRIGGER postings_belong;

-- Least privilege: the service adds and reads. The owner migrates.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'finance_app') THEN
        GRANT USAGE ON SCHEMA finance TO finance_app;
        GRANT SELECT, INSERT ON entries, postings TO finance_app;
        GRANT SELECT ON schema_migrations TO finance_app;
    END IF;
END $$;
