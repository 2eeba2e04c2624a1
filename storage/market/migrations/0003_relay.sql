-- The outbox is read and emptied by shard, so that is its key. One index less on the way of every commit.
DROP INDEX IF EXISTS outbox_by_shard;
ALTER TABLE outbox DROP CONSTRAINT outbox_pkey, ADD PRIMARY KEY (shard, position);

-- Consumers of order events. Every event recorded before `settled_before` whose order has no row in
-- consumer_progress has been taken: so rows of orders that went quiet can be deleted, and an event of such an
-- order that comes again is still known as a duplicate.
CREATE TABLE consumers (
    consumer       text PRIMARY KEY,
    registered_at  timestamptz NOT NULL DEFAULT now(),
    settled_before timestamptz NOT NULL DEFAULT '-infinity'
);

-- The last event that a consumer took of an order. Every step is a compare-and-set on it, in the transaction
-- that writes what the event means; `from_seq` is where the last step started, and lets an upsert compare.
CREATE TABLE consumer_progress (
    consumer text             NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    seq      int              NOT NULL CHECK (seq >= 0),
    from_seq int              NOT NULL,
    PRIMARY KEY (consumer, order_id)
) WITH (fillfactor = 80);  -- two or three steps in an order's life: leave room for HOT updates

-- Events that a consumer could not take. `parked_at` null: it is tried again; set: given up until an operator
-- retries or drops it. `seq` is the event after the consumer's progress; the order stands still there.
CREATE TABLE stuck_events (
    consumer  text             NOT NULL,
    order_id  text COLLATE "C" NOT NULL,
    seq       int              NOT NULL,
    attempts  int              NOT NULL,
    code      text             NOT NULL,
    error     text             NOT NULL,
    since     timestamptz      NOT NULL DEFAULT now(),
    parked_at timestamptz,
    PRIMARY KEY (consumer, order_id)
);
CREATE INDEX stuck_events_parked ON stuck_events (consumer, order_id) WHERE parked_at IS NOT NULL;

-- What was sold: paid orders by SKU, UTC day of payment and currency. Written by the consumer `sales` only.
CREATE TABLE sales_by_day (
    day         date             NOT NULL,
    sku_id      text COLLATE "C" NOT NULL,
    currency    text COLLATE "C" NOT NULL,
    orders      bigint           NOT NULL CHECK (orders > 0),
    units       bigint           NOT NULL CHECK (units > 0),
    gross_minor bigint           NOT NULL CHECK (gross_minor > 0),
    PRIMARY KEY (day, sku_id, currency)
) WITH (fillfactor = 50);  -- a few rows, updated for every batch
CREATE INDEX sales_by_sku ON sales_by_day (sku_id, day);

-- Few rows that change all the time: vacuum by their number, not by a share of the table.
ALTER TABLE stuck_events SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE sales_by_day SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT, UPDATE ON consumers, sales_by_day TO market_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_progress, stuck_events TO market_app;
    END IF;
END $$;
