-- Money that goes back. `returned_minor` is what refunds (asked for, under way or done) and disputes (open or
-- lost) hold of the order: never more than was captured, and nothing before something was. An order is captured
-- whole or not at all, so its total is what was captured.
ALTER TABLE orders ADD COLUMN returned_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders
    ADD CONSTRAINT orders_returned_within_captured CHECK (returned_minor BETWEEN 0 AND total_minor),
    ADD CONSTRAINT orders_returned_after_payment CHECK (
        returned_minor = 0 OR status NOT IN ('created', 'screened', 'awaiting_payment', 'in_review', 'expired'));

-- Disputes, and refunds made at Stripe by hand, name the payment only. One entry per order, made by the commit
-- that records the payment; a column of the order's own row would cost it its HOT updates.
CREATE INDEX order_events_by_payment ON order_events ((data ->> 'payment_intent_id')) WHERE kind = 'order.paid';

-- The revocation list is read whole, and revoked licences are few among many.
CREATE INDEX licences_revoked ON licences (licence_id) WHERE status = 'revoked';

-- Revoked is for ever (invariant I5), whatever asks for something else.
CREATE FUNCTION refuse_restoring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'licence % is revoked for good', OLD.licence_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER licences_stay_revoked BEFORE UPDATE ON licences
    FOR EACH ROW WHEN (OLD.status = 'revoked' AND NEW.status <> 'revoked') EXECUTE FUNCTION refuse_restoring();
