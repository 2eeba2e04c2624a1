-- Orders: one row per order is the fence and the index; the order's events are the truth.
--
-- Tables that hang on an order have no foreign key to it. Every statement that writes them takes the
-- order's id from the row that it has just locked under the fence, orders are never deleted (the serving
-- role may not), and the checks measured as a quarter of an order's whole cost in Postgres (ADR 0002).
-- Ids are compared byte by byte, whatever the database's own collation: pages are cut by them.
CREATE TABLE orders (
    order_id       text COLLATE "C" PRIMARY KEY,
    buyer_id       text        NOT NULL,
    status         text        NOT NULL,
    -- Number of the last event. Every commit is a compare-and-set on it, so two hosts that run the
    -- same order cannot both win (invariant I8).
    seq            int         NOT NULL,
    currency       text        NOT NULL,
    total_minor    bigint      NOT NULL CHECK (total_minor > 0),
    -- What the buyer's browser needs in order to pay (client secret or hosted page). Private: never in
    -- an event, shown to the buyer only.
    payment_handle jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);  -- five updates in an order's life: leave room for HOT updates

CREATE INDEX orders_by_buyer ON orders (buyer_id, order_id DESC);

-- The events are also the outbox: `position` is drawn inside the commit, after the order's row lock.
CREATE TABLE order_events (
    order_id text        NOT NULL,
    seq      int         NOT NULL CHECK (seq > 0),
    event_id text        NOT NULL,
    kind     text        NOT NULL,
    data     jsonb       NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    position bigint      GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (order_id, seq)
);

-- Durable to-dos and timers. (order_id, step) is the idempotency key of the outside call. A row is
-- deleted by the commit that records its result, so the table holds only what is still to be done.
CREATE TABLE effects (
    order_id   text        NOT NULL,
    step       text        NOT NULL,
    due_at     timestamptz NOT NULL,
    attempts   int         NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (order_id, step)
);
CREATE INDEX effects_by_due ON effects (due_at);

-- Verified webhooks, kept before they are answered. `processed_at` is set by the order's own commit.
CREATE TABLE inbox (
    event_id     text PRIMARY KEY,
    order_id     text        NOT NULL,
    kind         text        NOT NULL,
    payload      jsonb       NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL,
    attempts     int         NOT NULL DEFAULT 0,
    processed_at timestamptz,
    outcome      text
);
CREATE INDEX inbox_by_due ON inbox (due_at) WHERE processed_at IS NULL;

-- Idempotency keys of HTTP writes, recorded in the transaction of the write that they name.
CREATE TABLE commands (
    principal_id    text        NOT NULL,
    idempotency_key text        NOT NULL,
    request_digest  bytea       NOT NULL,
    subject         text        NOT NULL,
    response        jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal_id, idempotency_key)
);

-- Catalogue.
CREATE TABLE seller_keys (
    key_id        text PRIMARY KEY,
    seller_id     text        NOT NULL,
    public_key    bytea       NOT NULL CHECK (octet_length(public_key) = 32),
    state         text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retired', 'compromised')),
    registered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX seller_keys_by_seller ON seller_keys (seller_id);

CREATE TABLE skus (
    sku_id      text COLLATE "C" PRIMARY KEY,
    seller_id   text        NOT NULL,
    name        text        NOT NULL UNIQUE,
    title       text        NOT NULL,
    description text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sku_prices (
    sku_id       text   NOT NULL REFERENCES skus,
    currency     text   NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (sku_id, currency)
);

CREATE TABLE releases (
    release_id      text PRIMARY KEY,
    sku_id          text        NOT NULL REFERENCES skus,
    version         text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('draft', 'published', 'yanked')),
    bundle_name     text        NOT NULL,
    upload_key      text        NOT NULL,
    -- Filled by publication, and never changed afterwards.
    manifest        text,         -- the seller's signed DSSE envelope
    countersignature text,        -- the platform's DSSE envelope over the same statement
    minisig         text,         -- minisign signature of the bundle by the platform's key
    bundle_sha256   text,
    bundle_bytes    bigint,
    licence_days    int,          -- null is a perpetual licence
    payload_key     text,         -- the encrypted payload in S3, stored once for all buyers
    payload_version text,
    payload_sha256  text,
    payload_bytes   bigint,
    wrapped_file_key bytea,       -- age file key, wrapped by KMS under a context of ids
    created_at      timestamptz NOT NULL DEFAULT now(),
    published_at    timestamptz,
    UNIQUE (sku_id, version),
    CHECK (state = 'draft' OR (manifest IS NOT NULL AND bundle_sha256 IS NOT NULL AND payload_version IS NOT NULL
                               AND payload_sha256 IS NOT NULL AND wrapped_file_key IS NOT NULL))
);
CREATE INDEX releases_newest ON releases (sku_id, published_at DESC) WHERE state = 'published';

-- What buyers hold.
CREATE TABLE licences (
    licence_id text PRIMARY KEY,
    order_id   text        NOT NULL,
    line_no    int         NOT NULL,
    buyer_id   text        NOT NULL,
    sku_id     text        NOT NULL,
    release_id text        NOT NULL,
    quantity   int         NOT NULL,
    status     text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
    key_id     text        NOT NULL,
    envelope   text        NOT NULL,
    issued_at  timestamptz NOT NULL,
    UNIQUE (order_id, line_no)  -- invariant I3
);

CREATE TABLE deliveries (
    delivery_id      text PRIMARY KEY,
    order_id         text        NOT NULL,
    line_no          int         NOT NULL,
    buyer_id         text        NOT NULL,
    release_id       text        NOT NULL,
    mode             text        NOT NULL CHECK (mode IN ('recipient', 'released_key')),
    recipient        text        NOT NULL,
    header           bytea       NOT NULL,
    manifest         text        NOT NULL,  -- the platform's signed DSSE envelope
    wrapped_identity bytea,                 -- released_key only: the age identity, wrapped by KMS
    key_expires_at   timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, line_no)
);

-- Who may call: bearer tokens by the SHA-256 of their text. The token itself is never stored.
CREATE TABLE access_tokens (
    token_sha256 bytea PRIMARY KEY CHECK (octet_length(token_sha256) = 32),
    role         text        NOT NULL CHECK (role IN ('buyer', 'seller', 'operator', 'fraud', 'auditor')),
    principal_id text        NOT NULL,
    issued_by    text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at   timestamptz
);

-- The platform's public signing keys: a licence is checked against this record, never against itself.
CREATE TABLE signing_keys (
    key_id         text PRIMARY KEY,
    public_key     bytea       NOT NULL CHECK (octet_length(public_key) = 32),
    algorithm      text        NOT NULL DEFAULT 'ed25519',
    state          text        NOT NULL CHECK (state IN ('active', 'retired', 'compromised')),
    not_before     timestamptz NOT NULL DEFAULT now(),
    compromised_at timestamptz
);

-- Facts are append-only, even for the owner's mistakes.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows are facts: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER order_events_are_facts BEFORE UPDATE OR DELETE ON order_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Least privilege for the serving role: it can neither alter the schema nor rewrite history.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT USAGE ON SCHEMA market TO market_app;
        GRANT SELECT ON ALL TABLES IN SCHEMA market TO market_app;
        GRANT INSERT ON orders, order_events, effects, inbox, commands, seller_keys, skus, sku_prices, releases,
                        licences, deliveries, access_tokens, signing_keys TO market_app;
        GRANT UPDATE ON orders, effects, inbox, releases, licences, access_tokens TO market_app;
        GRANT UPDATE (wrapped_identity) ON deliveries TO market_app;
        GRANT DELETE ON effects TO market_app;
    END IF;
END $$;
