-- Housekeeping: what has served its time is deleted by age, so each table gets an index on its age. Both grow
-- at their end only.
CREATE INDEX commands_by_age ON commands (created_at);
CREATE INDEX inbox_by_age ON inbox (processed_at) WHERE processed_at IS NOT NULL;

-- Dead letters of all kinds are listed by the time at which they died.
CREATE INDEX stuck_events_by_time ON stuck_events (parked_at) WHERE parked_at IS NOT NULL;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT DELETE ON commands, inbox TO market_app;
    END IF;
END $$;
