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

-- A document that took another's place. One successor per document: of two at once, one is refused. Its id has the
-- collation of licences.licence_id, or the view below could use neither's index.
CREATE TABLE licence_successors (
    document_id text PRIMARY KEY,
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

-- Every document there is, and how it stands. Joins and no EXISTS: plans are made while the tables may be empty, and
-- a subquery that was hashed then would read them whole for ever.
CREATE VIEW licence_documents AS
SELECT l.licence_id AS document_id, l.licence_id, 1 AS serial, l.buyer_id, l.key_id, l.envelope, l.issued_at,
       l.order_id, l.line_no, l.sku_id, l.release_id, l.quantity,
       CASE WHEN l.status <> 'revoked' AND n.document_id IS NOT NULL THEN 'superseded' ELSE l.status END AS standing
FROM licences AS l LEFT JOIN licence_successors AS n ON n.supersedes = l.licence_id
UNION ALL
SELECT d.document_id, d.licence_id, d.serial, d.buyer_id, d.key_id, d.envelope, d.issued_at,
       l.order_id, l.line_no, l.sku_id, l.release_id, l.quantity,
       CASE WHEN l.status <> 'revoked' AND n.document_id IS NOT NULL THEN 'superseded' ELSE l.status END
FROM licence_successors AS d JOIN licences AS l USING (licence_id)
LEFT JOIN licence_successors AS n ON n.supersedes = d.document_id;

-- What happened to a licence after its issue; written by the functions below, never changed.
CREATE TABLE licence_events (
    licence_id   text        NOT NULL REFERENCES licences,
    seq          int         NOT NULL CHECK (seq > 0),
    kind         text        NOT NULL,
    principal_id text        NOT NULL,
    data         jsonb       NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (licence_id, seq)
);
CREATE TRIGGER licence_events_are_facts BEFORE UPDATE OR DELETE ON licence_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE licence_transfers (
    transfer_id   text COLLATE "C" PRIMARY KEY,
    document_id   text        NOT NULL,
    licence_id    text        NOT NULL REFERENCES licences,
    from_buyer_id text        NOT NULL,
    to_buyer_id   text        NOT NULL CHECK (to_buyer_id <> from_buyer_id),
    status        text        NOT NULL DEFAULT 'offered'
                  CHECK (status IN ('offered', 'accepted', 'withdrawn', 'declined', 'expired')),
    successor_id  text,
    offered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    closed_at     timestamptz,
    CHECK ((status = 'accepted') = (successor_id IS NOT NULL)),
    CHECK ((status = 'offered') = (closed_at IS NULL))
);
CREATE UNIQUE INDEX licence_transfers_open ON licence_transfers (licence_id) WHERE status = 'offered';

-- Seats in use; a row goes when its seat is free, so there are never more than the licences' quantities.
CREATE TABLE licence_activations (
    activation_id text COLLATE "C" PRIMARY KEY,
    licence_id    text        NOT NULL REFERENCES licences,
    document_id   text        NOT NULL,
    fingerprint   text        NOT NULL,
    name          text        NOT NULL,
    kind          text        NOT NULL CHECK (kind IN ('seat', 'lease')),
    activated_at  timestamptz NOT NULL,
    heartbeat_at  timestamptz NOT NULL,
    held_until    timestamptz CHECK ((kind = 'lease') = (held_until IS NOT NULL)),
    UNIQUE (licence_id, fingerprint)
);

-- The key by which the owner of a document proves to be that. A new document has none until its owner says so.
CREATE TABLE licence_owner_keys (
    document_id   text PRIMARY KEY,
    licence_id    text        NOT NULL REFERENCES licences,
    public_key    bytea       NOT NULL CHECK (octet_length(public_key) = 32),
    registered_by text        NOT NULL,
    registered_at timestamptz NOT NULL
);

CREATE TABLE ownership_challenges (
    nonce_sha256 bytea PRIMARY KEY CHECK (octet_length(nonce_sha256) = 32),
    document_id  text        NOT NULL,
    purpose      text        NOT NULL CHECK (purpose IN ('ownership', 'activation')),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz
);
CREATE INDEX ownership_challenges_by_document ON ownership_challenges (document_id, expires_at);
CREATE INDEX ownership_challenges_by_age ON ownership_challenges (expires_at);

CREATE FUNCTION refuse_licensing(p_code text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'LC001', MESSAGE = p_code;
END $$;

-- Locks a document's licence against orders, transfers, renewals and activations until the transaction ends. Only
-- the last document of an active licence passes; p_owner NULL asks for no owner.
CREATE FUNCTION hold_document(p_document_id text, p_owner text) RETURNS licence_documents
LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document licence_documents%ROWTYPE;
BEGIN
    PERFORM FROM licences AS l WHERE l.licence_id = (
        SELECT d.licence_id FROM licence_documents AS d WHERE d.document_id = p_document_id
    ) FOR NO KEY UPDATE;
    -- Read after the lock, by a new snapshot: what stood before may have changed while it was waited for.
    SELECT * INTO v_document FROM licence_documents WHERE document_id = p_document_id;
    IF NOT FOUND OR v_document.buyer_id <> coalesce(p_owner, v_document.buyer_id) THEN
        PERFORM refuse_licensing('licence_not_found');
    ELSIF v_document.standing = 'superseded' THEN
        PERFORM refuse_licensing('licence_superseded');
    ELSIF v_document.standing <> 'active' THEN
        PERFORM refuse_licensing('licence_not_active');
    END IF;
    RETURN v_document;
END $$;

CREATE FUNCTION record_licence_event(p_licence_id text, p_kind text, p_principal_id text, p_data jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, market, pg_temp AS $$
    INSERT INTO licence_events (licence_id, seq, kind, principal_id, data)
    SELECT p_licence_id, 1 + coalesce(max(seq), 0), p_kind, p_principal_id, p_data
    FROM licence_events WHERE licence_id = p_licence_id
$$;

-- Claims an idempotency key; false when it was used before, and the caller reads what for.
CREATE FUNCTION claim_command(p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_subject text)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    INSERT INTO commands (principal_id, idempotency_key, request_digest, subject)
    VALUES (p_principal_id, p_idempotency_key, p_request_digest, p_subject) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

CREATE FUNCTION transfers_forbidden() RETURNS boolean LANGUAGE sql
SET search_path = pg_catalog, market, pg_temp AS $$
    SELECT coalesce((document::jsonb ->> 'transfers_forbidden')::boolean, false)
    FROM governed_versions WHERE kind = 'licence_model' ORDER BY version DESC LIMIT 1
$$;

CREATE FUNCTION succeed(
    p_document licence_documents, p_new_id text, p_cause text, p_buyer_id text, p_key_id text, p_envelope text,
    p_issued_at timestamptz, p_serial_max int
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    IF p_document.serial >= p_serial_max THEN
        PERFORM refuse_licensing('licence_full');
    END IF;
    INSERT INTO licence_successors (document_id, licence_id, serial, supersedes, cause, buyer_id, key_id, envelope,
                                    issued_at)
    VALUES (p_new_id, p_document.licence_id, p_document.serial + 1, p_document.document_id, p_cause, p_buyer_id,
            p_key_id, p_envelope, p_issued_at);
    DELETE FROM licence_activations WHERE licence_id = p_document.licence_id;
END $$;

CREATE FUNCTION offer_transfer(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_transfer_id text, p_document_id text,
    p_to_buyer_id text, p_life_s int
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document licence_documents%ROWTYPE;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_transfer_id) THEN
        RETURN false;
    END IF;
    v_document := hold_document(p_document_id, p_principal_id);
    IF transfers_forbidden() THEN
        PERFORM refuse_licensing('transfers_forbidden');
    ELSIF p_to_buyer_id = p_principal_id THEN
        PERFORM refuse_licensing('transfer_to_self');
    END IF;
    UPDATE licence_transfers SET status = 'expired', closed_at = clock_timestamp()
    WHERE licence_id = v_document.licence_id AND status = 'offered' AND expires_at <= clock_timestamp();
    IF EXISTS (SELECT FROM licence_transfers WHERE licence_id = v_document.licence_id AND status = 'offered') THEN
        PERFORM refuse_licensing('transfer_open');
    END IF;
    INSERT INTO licence_transfers (transfer_id, document_id, licence_id, from_buyer_id, to_buyer_id, expires_at)
    VALUES (p_transfer_id, p_document_id, v_document.licence_id, p_principal_id, p_to_buyer_id,
            clock_timestamp() + p_life_s * interval '1 second');
    PERFORM record_licence_event(v_document.licence_id, 'licence.transfer_offered', p_principal_id,
        jsonb_build_object('transfer_id', p_transfer_id, 'document_id', p_document_id, 'to', p_to_buyer_id));
    RETURN true;
END $$;

-- Locks the licence first, as every function here does, and then the transfer.
CREATE FUNCTION hold_transfer(p_transfer_id text, p_principal_id text) RETURNS licence_transfers
LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_transfer licence_transfers%ROWTYPE;
BEGIN
    PERFORM FROM licences AS l WHERE l.licence_id = (
        SELECT t.licence_id FROM licence_transfers AS t WHERE t.transfer_id = p_transfer_id
    ) FOR NO KEY UPDATE;
    SELECT * INTO v_transfer FROM licence_transfers WHERE transfer_id = p_transfer_id FOR UPDATE;
    IF NOT FOUND OR p_principal_id NOT IN (v_transfer.from_buyer_id, v_transfer.to_buyer_id) THEN
        PERFORM refuse_licensing('transfer_not_found');
    ELSIF v_transfer.status <> 'offered' OR v_transfer.expires_at <= clock_timestamp() THEN
        PERFORM refuse_licensing('transfer_closed');
    END IF;
    RETURN v_transfer;
END $$;

-- The owner takes an offer back, or the receiver does not want it.
CREATE FUNCTION end_transfer(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_transfer_id text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_transfer licence_transfers%ROWTYPE;
    v_status   text;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_transfer_id) THEN
        RETURN false;
    END IF;
    v_transfer := hold_transfer(p_transfer_id, p_principal_id);
    v_status := CASE WHEN p_principal_id = v_transfer.from_buyer_id THEN 'withdrawn' ELSE 'declined' END;
    UPDATE licence_transfers SET status = v_status, closed_at = clock_timestamp() WHERE transfer_id = p_transfer_id;
    PERFORM record_licence_event(v_transfer.licence_id, 'licence.transfer_' || v_status, p_principal_id,
        jsonb_build_object('transfer_id', p_transfer_id));
    RETURN true;
END $$;

CREATE FUNCTION accept_transfer(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_transfer_id text, p_new_id text,
    p_key_id text, p_envelope text, p_issued_at timestamptz, p_serial_max int
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_transfer licence_transfers%ROWTYPE;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_transfer_id) THEN
        RETURN false;
    END IF;
    v_transfer := hold_transfer(p_transfer_id, p_principal_id);
    IF p_principal_id <> v_transfer.to_buyer_id THEN
        PERFORM refuse_licensing('transfer_not_found');
    ELSIF transfers_forbidden() THEN
        PERFORM refuse_licensing('transfers_forbidden');
    END IF;
    PERFORM succeed(hold_document(v_transfer.document_id, v_transfer.from_buyer_id), p_new_id, 'transfer',
                    p_principal_id, p_key_id, p_envelope, p_issued_at, p_serial_max);
    UPDATE licence_transfers SET status = 'accepted', successor_id = p_new_id, closed_at = clock_timestamp()
    WHERE transfer_id = p_transfer_id;
    PERFORM record_licence_event(v_transfer.licence_id, 'licence.transferred', p_principal_id, jsonb_build_object(
        'transfer_id', p_transfer_id, 'from', v_transfer.from_buyer_id, 'to', p_principal_id,
        'superseded', v_transfer.document_id, 'document_id', p_new_id));
    RETURN true;
END $$;

-- What the documents say was judged before; here only that both still count and are this owner's.
CREATE FUNCTION renew_licence(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_document_id text, p_renewed_id text,
    p_new_id text, p_key_id text, p_envelope text, p_issued_at timestamptz, p_serial_max int
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document licence_documents%ROWTYPE;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_new_id) THEN
        RETURN false;
    END IF;
    -- Both licences in the order of their ids, so that two renewals never wait for each other in a circle.
    PERFORM FROM licences AS l WHERE l.licence_id IN (
        SELECT d.licence_id FROM licence_documents AS d WHERE d.document_id IN (p_document_id, p_renewed_id)
    ) ORDER BY l.licence_id FOR NO KEY UPDATE;
    PERFORM hold_document(p_renewed_id, p_principal_id);
    v_document := hold_document(p_document_id, p_principal_id);
    IF EXISTS (SELECT FROM licence_successors WHERE licence_id = v_document.licence_id AND cause = 'renewal') THEN
        PERFORM refuse_licensing('renewal_done');
    END IF;
    UPDATE licence_transfers SET status = 'withdrawn', closed_at = clock_timestamp()
    WHERE licence_id = v_document.licence_id AND status = 'offered';
    PERFORM succeed(v_document, p_new_id, 'renewal', p_principal_id, p_key_id, p_envelope, p_issued_at, p_serial_max);
    PERFORM record_licence_event(v_document.licence_id, 'licence.renewed', p_principal_id, jsonb_build_object(
        'renews', p_renewed_id, 'superseded', p_document_id, 'document_id', p_new_id));
    RETURN true;
END $$;

-- One seat for one machine, once. Who asks again gets the seat that it has.
CREATE FUNCTION activate_licence(
    p_document_id text, p_activation_id text, p_fingerprint text, p_name text, p_kind text, p_lease_s int
) RETURNS licence_activations LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document   licence_documents%ROWTYPE;
    v_activation licence_activations%ROWTYPE;
    v_now        timestamptz;
BEGIN
    v_document := hold_document(p_document_id, NULL);
    v_now := clock_timestamp();
    DELETE FROM licence_activations WHERE licence_id = v_document.licence_id AND held_until <= v_now;
    UPDATE licence_activations
    SET name = p_name, heartbeat_at = v_now,
        held_until = CASE WHEN kind = 'lease' THEN v_now + p_lease_s * interval '1 second' END
    WHERE licence_id = v_document.licence_id AND fingerprint = p_fingerprint
    RETURNING * INTO v_activation;
    IF FOUND THEN
        RETURN v_activation;
    END IF;
    IF (SELECT count(*) FROM licence_activations WHERE licence_id = v_document.licence_id) >= v_document.quantity THEN
        PERFORM refuse_licensing('activations_full');
    END IF;
    INSERT INTO licence_activations (activation_id, licence_id, document_id, fingerprint, name, kind, activated_at,
                                     heartbeat_at, held_until)
    VALUES (p_activation_id, v_document.licence_id, p_document_id, p_fingerprint, p_name, p_kind, v_now, v_now,
            CASE WHEN p_kind = 'lease' THEN v_now + p_lease_s * interval '1 second' END)
    RETURNING * INTO v_activation;
    RETURN v_activation;
END $$;

CREATE FUNCTION renew_activation(p_activation_id text, p_document_id text, p_lease_s int)
RETURNS licence_activations LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_activation licence_activations%ROWTYPE;
BEGIN
    PERFORM hold_document(p_document_id, NULL);
    UPDATE licence_activations
    SET heartbeat_at = clock_timestamp(),
        held_until = CASE WHEN kind = 'lease' THEN clock_timestamp() + p_lease_s * interval '1 second' END
    WHERE activation_id = p_activation_id AND document_id = p_document_id
      AND (held_until IS NULL OR held_until > clock_timestamp())
    RETURNING * INTO v_activation;
    IF NOT FOUND THEN
        PERFORM refuse_licensing('activation_ended');
    END IF;
    RETURN v_activation;
END $$;

-- A seat that is free already stays so: releasing twice is harmless.
CREATE FUNCTION release_activation(p_activation_id text, p_owner text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    DELETE FROM licence_activations AS a WHERE a.activation_id = p_activation_id
      AND (p_owner IS NULL OR p_owner = (SELECT buyer_id FROM licence_documents WHERE document_id = a.document_id));
    RETURN FOUND;
END $$;

CREATE FUNCTION register_owner_key(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_document_id text, p_public_key bytea
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document licence_documents%ROWTYPE;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_document_id) THEN
        RETURN false;
    END IF;
    v_document := hold_document(p_document_id, p_principal_id);
    INSERT INTO licence_owner_keys (document_id, licence_id, public_key, registered_by, registered_at)
    VALUES (p_document_id, v_document.licence_id, p_public_key, p_principal_id, clock_timestamp())
    ON CONFLICT (document_id) DO UPDATE
    SET public_key = excluded.public_key, registered_by = excluded.registered_by, registered_at = excluded.registered_at;
    -- What was asked under the key before is not answered by the new one.
    DELETE FROM ownership_challenges WHERE document_id = p_document_id AND used_at IS NULL;
    PERFORM record_licence_event(v_document.licence_id, 'licence.owner_key_registered', p_principal_id,
        jsonb_build_object('document_id', p_document_id, 'key_sha256', encode(sha256(p_public_key), 'hex')));
    RETURN true;
END $$;

-- Clears old challenges on the way, a few at a time. One that was answered is remembered for a day, so that a replay
-- is told from a guess.
CREATE FUNCTION open_challenge(
    p_document_id text, p_nonce_sha256 bytea, p_purpose text, p_life_s int, p_open_max int, p_cleared_max int
) RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_expires_at timestamptz := clock_timestamp() + p_life_s * interval '1 second';
BEGIN
    PERFORM FROM licence_owner_keys WHERE document_id = p_document_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM refuse_licensing('owner_key_missing');
    END IF;
    DELETE FROM ownership_challenges WHERE nonce_sha256 = ANY (ARRAY(
        SELECT nonce_sha256 FROM ownership_challenges
        WHERE expires_at < clock_timestamp() - interval '1 day' ORDER BY expires_at LIMIT p_cleared_max
        FOR UPDATE SKIP LOCKED));
    IF (SELECT count(*) FROM ownership_challenges WHERE document_id = p_document_id AND used_at IS NULL
        AND expires_at > clock_timestamp()) >= p_open_max THEN
        PERFORM refuse_licensing('challenges_full');
    END IF;
    INSERT INTO ownership_challenges (nonce_sha256, document_id, purpose, expires_at)
    VALUES (p_nonce_sha256, p_document_id, p_purpose, v_expires_at);
    RETURN v_expires_at;
END $$;

-- How software of a release is used; null asks for no activation.
ALTER TABLE releases ADD COLUMN licence_activation text CHECK (licence_activation IN ('seats', 'floating'));

-- Functions are everybody's unless that is taken back.
REVOKE ALL ON FUNCTION
    refuse_fall(), raise_revocation_list(), refuse_licensing(text), hold_document(text, text),
    record_licence_event(text, text, text, jsonb), claim_command(text, text, bytea, text), transfers_forbidden(),
    succeed(licence_documents, text, text, text, text, text, timestamptz, int), hold_transfer(text, text),
    offer_transfer(text, text, bytea, text, text, text, int), end_transfer(text, text, bytea, text),
    accept_transfer(text, text, bytea, text, text, text, text, timestamptz, int),
    renew_licence(text, text, bytea, text, text, text, text, text, timestamptz, int),
    activate_licence(text, text, text, text, text, int), renew_activation(text, text, int),
    release_activation(text, text), register_owner_key(text, text, bytea, text, bytea),
    open_challenge(text, bytea, text, int, int, int)
FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT ON revocation_list, licence_successors, licence_documents, licence_events, licence_transfers,
                        licence_activations, licence_owner_keys, ownership_challenges TO market_app;
        GRANT UPDATE (used_at) ON ownership_challenges TO market_app;
        GRANT EXECUTE ON FUNCTION
            offer_transfer(text, text, bytea, text, text, text, int), end_transfer(text, text, bytea, text),
            accept_transfer(text, text, bytea, text, text, text, text, timestamptz, int),
            renew_licence(text, text, bytea, text, text, text, text, text, timestamptz, int),
            activate_licence(text, text, text, text, text, int), renew_activation(text, text, int),
            release_activation(text, text), register_owner_key(text, text, bytea, text, bytea),
            open_challenge(text, bytea, text, int, int, int)
        TO market_app;
    END IF;
END $$;
