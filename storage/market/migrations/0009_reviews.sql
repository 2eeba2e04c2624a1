-- Reviews of flagged orders are read from the orders' own events (ADR 0011): of an authorised payment there is one
-- entry here, made by the commit that records it, and no other commit pays for it.
CREATE INDEX order_events_authorised ON order_events (order_id COLLATE "C") WHERE kind = 'order.payment_authorised';
