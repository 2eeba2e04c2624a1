-- Licences after their issue: the numbered revocation list, successors (transfers and renewals), activations,
-- owners' keys. A licence stands for what one order line bought, and its row's status follows the order alone. Its
-- documents succeed each other: the row's own envelope is the first, the last one counts.

-- What a verifier must never see fall. Raised by the transaction that changes what the list says; the row's lock
-- makes such transactions commit in the order of their versions. Lists before this one counted revoked licences.
CREATE TABLE revocation_list (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL CHECK (version BETWEEN 1 AND 9007199254740991)
);
INSERT INTO revocation_list (version) SELECT 2 + count(*) FROM licences WHERE status = 'revoked';

CREATE FUNCTION refuse_fall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the revocation list never goes back' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER revocation_list_rises BEFORE UPDATE ON revocation_list
    FOR EACH ROW WHEN (NEW.version <= OLD.version) EXECUTE FUNCTION refuse_fall();
CREATE TRIGGER revocation_list_stays BEFORE DELETE ON revocation_list
    FOR EACH ROW EXECUTE FUNCTION refuse_fall();

CREATE FUNCTION raise_revocation_list() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    UPDATE revocation_list SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER licences_change_the_list AFTER UPDATE OF status ON licences
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION raise_revocation_list();
-- The list carries the days of grace, so that verifiers without a network know them.
CREATE TRIGGER grace_changes_the_list AFTER INSERT ON governed_versions
    FOR EACH ROW WHEN (NEW.kind = 'licence_model') EXECUTE FUNCTION raise_revocation_list();

CREATE INDEX licences_suspended ON licences (licence_id) WHERE status = 'suspended';

-- A document that took another's place. One successor per document: of two at once, one is refused.
CREATE TABLE licence_successors (
    document_id text COLLATE "C" PRIMARY KEY,
    licence_id  text        NOT NULL REFERENCES licences,
    serial      int         NOT NULL CHECK (serial > 1),
    supersedes  text        NOT NULL UNIQUE,
    cause       text        NOT NULL CHECK (cause IN ('transfer', 'renewal')),
    buyer_id    text        NOT NULL,
    key_id      text        NOT NULL,
    envelope    text        NOT NULL,
    issued_at   timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (licence_id, serial)
);
CREATE INDEX licence_successors_by_buyer ON licence_successors (buyer_id, document_id);
CREATE TRIGGER licence_successors_are_facts BEFORE UPDATE OR DELETE ON licence_successors
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER successors_change_the_list AFTER INSERT ON licence_successors
    FOR EACH ROW EXECUTE FUNCTION raise_revocation_list();

-- Every document there is, and how it stands.
CREATE VIEW licence_documents AS
SELECT d.document_id, d.licence_id, d.serial, d.buyer_id, d.key_id, d.envelope, d.issued_at,
       l.order_id, l.line_no, l.sku_id, l.release_id, l.quantity,
       CASE WHEN l.status <> 'revoked'
             AND EXISTS (SELECT FROM licence_successors AS n WHERE n.supersedes = d.document_id) THEN 'superseded'
            ELSE l.status END AS standing
FROM (
    SELECT licence_id AS document_id, licence_id, 1 AS serial, buyer_id, key_id, envelope, issued_at FROM licences
    UNION ALL
    SELECT document_id, licence_id, serial, buyer_id, key_id, envelope, issued_at FROM licence_successors
) AS d JOIN licences AS l USING (licence_id);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT ON revocation_list, licence_successors, licence_documents TO market_app;
    END IF;
END $$;
