-- Signed key lists. The root is the database owner's to put in: the serving role, and with it whoever takes an
-- ingress or the signer, can publish lists but cannot name who must have signed them.
CREATE TABLE signing_roots (
    root_id    text PRIMARY KEY,
    public_key bytea       NOT NULL CHECK (octet_length(public_key) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    position   int         GENERATED ALWAYS AS IDENTITY  -- the newest one must sign what comes next
);

-- Each list follows exactly one, and none is followed twice: of two published at once, one is refused, so none
-- can drop what the other said. Version 0 is the empty list before the first.
CREATE TABLE key_lists (
    version      int PRIMARY KEY CHECK (version > follows),
    follows      int         NOT NULL UNIQUE CHECK (follows >= 0),
    root_id      text        NOT NULL REFERENCES signing_roots,
    envelope     text        NOT NULL CHECK (length(envelope) <= 32768),
    expires_at   timestamptz NOT NULL,
    published_by text        NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
);

CREATE TRIGGER signing_roots_are_facts BEFORE UPDATE OR DELETE ON signing_roots
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER key_lists_are_facts BEFORE UPDATE OR DELETE ON key_lists
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT ON signing_roots, key_lists TO market_app;
        GRANT INSERT ON key_lists TO market_app;
    END IF;
END $$;
