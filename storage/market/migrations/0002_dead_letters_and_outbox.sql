-- Dead letters: work that was refused for good, or that failed in a way nobody foresaw. The row stays where
-- it was, with its reason, and is not claimed again until an operator retries it.
ALTER TABLE effects ADD COLUMN dead_at timestamptz, ADD COLUMN dead_code text;
DROP INDEX effects_by_due;
CREATE INDEX effects_by_due ON effects (due_at) WHERE dead_at IS NULL;
CREATE INDEX effects_dead ON effects (dead_at) WHERE dead_at IS NOT NULL;

ALTER TABLE inbox ADD COLUMN dead_at timestamptz, ADD COLUMN dead_code text;
DROP INDEX inbox_by_due;
CREATE INDEX inbox_by_due ON inbox (due_at) WHERE processed_at IS NULL AND dead_at IS NULL;
CREATE INDEX inbox_dead ON inbox (dead_at) WHERE dead_at IS NOT NULL;

-- The outbox: one row per commit, naming the events that it recorded. `position` is drawn after the order's
-- row lock, so it rises with `first_seq` within an order; a row is deleted once its events are published.
CREATE TABLE outbox (
    position  bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard     smallint NOT NULL,
    order_id  text COLLATE "C" NOT NULL,
    first_seq int      NOT NULL,
    last_seq  int      NOT NULL CHECK (last_seq >= first_seq)
);
CREATE INDEX outbox_by_shard ON outbox (shard, position);

-- What is on record from before is published once more, order by order, as one stretch each.
INSERT INTO outbox (shard, order_id, first_seq, last_seq)
SELECT (crc32(convert_to(order_id, 'UTF8')) % 16)::smallint, order_id, 1, max(seq)
FROM order_events GROUP BY order_id ORDER BY min(position);
ALTER TABLE order_events DROP COLUMN position;  -- the outbox has taken its place

-- Rows of these tables live for seconds: vacuum by their number, not by a share of a table that is empty.
ALTER TABLE effects SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- What operators did by hand (invariant I12): written by the statement that does it, never changed.
CREATE TABLE operator_actions (
    action_id    text PRIMARY KEY,
    principal_id text        NOT NULL,
    action       text        NOT NULL,
    subject      text        NOT NULL,
    reason       text        NOT NULL,
    detail       jsonb       NOT NULL DEFAULT '{}',
    at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX operator_actions_by_subject ON operator_actions (subject, at);
CREATE TRIGGER operator_actions_are_facts BEFORE UPDATE OR DELETE ON operator_actions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT, INSERT, DELETE ON outbox TO market_app;
        GRANT SELECT, INSERT ON operator_actions TO market_app;
    END IF;
END $$;
