-- Prices may be zero, and so may totals: such orders are granted, not paid. Every row on record satisfies the
-- stricter check that goes, so that none is read again.
ALTER TABLE sku_prices DROP CONSTRAINT sku_prices_amount_minor_check;
ALTER TABLE sku_prices ADD CONSTRAINT sku_prices_not_negative CHECK (amount_minor >= 0) NOT VALID;
ALTER TABLE orders DROP CONSTRAINT orders_total_minor_check;
ALTER TABLE orders ADD CONSTRAINT orders_total_not_negative CHECK (total_minor >= 0) NOT VALID;
ALTER TABLE sales_by_day DROP CONSTRAINT sales_by_day_gross_minor_check;
ALTER TABLE sales_by_day ADD CONSTRAINT sales_gross_not_negative CHECK (gross_minor >= 0) NOT VALID;
-- How many a buyer had lately bounds how many more there may be.
CREATE INDEX orders_free ON orders (buyer_id, created_at) WHERE total_minor = 0;

-- `sku_prices` is the list in force; every list that ever was is kept here.
ALTER TABLE skus
    ADD COLUMN price_version int  NOT NULL DEFAULT 1,
    ADD COLUMN tax_category  text NOT NULL DEFAULT 'software';
CREATE TABLE price_lists (
    sku_id  text        NOT NULL REFERENCES skus,
    version int         NOT NULL CHECK (version > 0),
    prices  jsonb       NOT NULL,
    set_by  text        NOT NULL,
    set_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku_id, version)
);
INSERT INTO price_lists (sku_id, version, prices, set_by, set_at)
SELECT sku_id, 1, jsonb_object_agg(p.currency, p.amount_minor), s.seller_id, s.created_at
FROM skus s JOIN sku_prices p USING (sku_id) GROUP BY sku_id;
CREATE TRIGGER price_lists_are_facts BEFORE UPDATE OR DELETE ON price_lists
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Discount codes. `uses` counts the rows of discount_uses, under the row's own lock: whoever places an order
-- with a code waits for whoever does so at that moment.
CREATE TABLE discounts (
    discount_id        text COLLATE "C" PRIMARY KEY,
    code               text        NOT NULL UNIQUE CHECK (code = upper(code)),
    seller_id          text,                 -- null: the platform's own
    percent_bps        int         CHECK (percent_bps BETWEEN 1 AND 10000),
    amounts_minor      jsonb       NOT NULL,
    minimum_minor      jsonb       NOT NULL,
    sku_ids            text[]      NOT NULL, -- empty: all that the code may touch
    uses_max           int         CHECK (uses_max > 0),
    uses_per_buyer_max int         CHECK (uses_per_buyer_max > 0),
    valid_from         timestamptz NOT NULL,
    valid_until        timestamptz,
    ended_at           timestamptz,
    created_by         text        NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    uses               int         NOT NULL DEFAULT 0,
    CONSTRAINT discounts_used_within_bound CHECK (uses >= 0 AND (uses_max IS NULL OR uses <= uses_max)),
    CONSTRAINT discounts_take_one_way CHECK ((percent_bps IS NULL) <> (amounts_minor = '{}'))
);
CREATE INDEX discounts_by_seller ON discounts (seller_id, discount_id DESC);

-- Which order holds a use. A row goes when its order ends unpaid.
CREATE TABLE discount_uses (
    order_id    text COLLATE "C" PRIMARY KEY,
    discount_id text        NOT NULL REFERENCES discounts,
    buyer_id    text        NOT NULL,
    used_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX discount_uses_by_buyer ON discount_uses (discount_id, buyer_id);

-- Tax tables, whole: the newest version is in force. The first one taxes nothing, as it was before.
CREATE TABLE tax_tables (
    version  int         PRIMARY KEY CHECK (version > 0),
    document jsonb       NOT NULL,
    set_by   text        NOT NULL,
    reason   text        NOT NULL,
    set_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tax_tables (version, document, set_by, reason)
VALUES (1, '{"rates": [], "elsewhere": "untaxed"}', 'migration', 'No tax is collected until somebody says which.');
CREATE TRIGGER tax_tables_are_facts BEFORE UPDATE OR DELETE ON tax_tables
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT ON price_lists, tax_tables TO market_app;
        GRANT UPDATE (price_version) ON skus TO market_app;
        GRANT UPDATE (amount_minor), DELETE ON sku_prices TO market_app;
        GRANT SELECT, INSERT ON discounts TO market_app;
        GRANT UPDATE (uses, ended_at) ON discounts TO market_app;
        GRANT SELECT, INSERT, DELETE ON discount_uses TO market_app;
    END IF;
END $$;
