-- Stored key lists are candidates: readers go through them in their order and pass over what its root did not sign.
-- So a row's place is its position and no claim of its own. Before, a forged row held the version and the place of the
-- true one, which then could not be published.
ALTER TABLE key_lists DISABLE TRIGGER key_lists_are_facts;
ALTER TABLE key_lists DROP CONSTRAINT key_lists_pkey;
ALTER TABLE key_lists DROP CONSTRAINT key_lists_follows_key;
ALTER TABLE key_lists ALTER COLUMN version TYPE bigint, ALTER COLUMN follows TYPE bigint;
ALTER TABLE key_lists ADD COLUMN position bigint;
UPDATE key_lists AS l SET position = o.position
FROM (SELECT version, row_number() OVER (ORDER BY version) AS position FROM key_lists) AS o WHERE l.version = o.version;
ALTER TABLE key_lists ADD PRIMARY KEY (position);
ALTER TABLE key_lists ENABLE TRIGGER key_lists_are_facts;

-- A row joins at the end. Whoever says which position that is has read everything before it; of two at once the primary
-- key refuses one, so that none drops what the other said.
CREATE FUNCTION join_key_lists() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_last  bigint;
    v_count bigint;
BEGIN
    SELECT coalesce(max(position), 0), count(*) INTO v_last, v_count FROM key_lists;
    IF v_count >= 1000 THEN
        RAISE EXCEPTION 'the record of key lists is full' USING ERRCODE = 'KL001';
    ELSIF NEW.position <> v_last + 1 THEN
        RAISE EXCEPTION 'the record of key lists has grown' USING ERRCODE = 'unique_violation';
    END IF;
    NEW.position := v_last + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER key_lists_join_at_the_end BEFORE INSERT ON key_lists FOR EACH ROW EXECUTE FUNCTION join_key_lists();

-- Without a list, one key is on record: that of the first start. Whoever takes the serving role adds no second one.
CREATE FUNCTION refuse_second_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('market.signing_keys'));
    IF EXISTS (SELECT FROM signing_keys) THEN
        RAISE EXCEPTION 'a signing key is on record already' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER signing_keys_have_one_beginning BEFORE INSERT ON signing_keys
    FOR EACH ROW WHEN (current_user = 'market_app') EXECUTE FUNCTION refuse_second_key();

REVOKE ALL ON FUNCTION join_key_lists(), refuse_second_key() FROM PUBLIC;

-- Anybody may ask for a challenge. Whoever asks for many pushes the oldest out and keeps nobody from getting one; before,
-- 32 unanswered ones kept the owner's software from activating for five minutes.
CREATE OR REPLACE FUNCTION open_challenge(
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
    DELETE FROM ownership_challenges WHERE nonce_sha256 = ANY (ARRAY(
        SELECT nonce_sha256 FROM ownership_challenges WHERE document_id = p_document_id AND used_at IS NULL
        ORDER BY expires_at DESC OFFSET p_open_max - 1));
    INSERT INTO ownership_challenges (nonce_sha256, document_id, purpose, expires_at)
    VALUES (p_nonce_sha256, p_document_id, p_purpose, v_expires_at);
    RETURN v_expires_at;
END $$;

-- An answer is final, also for whoever has the serving role's password: it may set used_at and never take it back.
CREATE TRIGGER ownership_answers_are_facts BEFORE UPDATE ON ownership_challenges
    FOR EACH ROW WHEN (OLD.used_at IS NOT NULL) EXECUTE FUNCTION refuse_change();

-- Each document that was replaced stays on the revocation list for ever, and the list is bounded. Handing licences to and
-- fro costs nothing, so it is bounded for each buyer.
CREATE INDEX licence_transfers_by_buyer ON licence_transfers (from_buyer_id, offered_at);
CREATE FUNCTION bound_transfers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM licence_transfers WHERE from_buyer_id = NEW.from_buyer_id
        AND offered_at > clock_timestamp() - interval '1 day') >= 100 THEN
        PERFORM refuse_licensing('transfers_many');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER licence_transfers_are_bounded BEFORE INSERT ON licence_transfers
    FOR EACH ROW EXECUTE FUNCTION bound_transfers();

-- A licence whose key is compromised, and that nothing proves to be older, gets a document by the key that signs now. Its
-- owner, policy and proof of ownership stay.
ALTER TABLE licence_successors DROP CONSTRAINT licence_successors_cause_check;
ALTER TABLE licence_successors ADD CONSTRAINT licence_successors_cause_check
    CHECK (cause IN ('transfer', 'renewal', 'reissue'));
CREATE FUNCTION reissue_licence(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_document_id text, p_reason text,
    p_new_id text, p_key_id text, p_envelope text, p_issued_at timestamptz, p_serial_max int
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_document licence_documents%ROWTYPE;
BEGIN
    IF NOT claim_command(p_principal_id, p_idempotency_key, p_request_digest, p_new_id) THEN
        RETURN false;
    END IF;
    v_document := hold_document(p_document_id, NULL);
    UPDATE licence_transfers SET status = 'withdrawn', closed_at = clock_timestamp()
    WHERE licence_id = v_document.licence_id AND status = 'offered';
    PERFORM succeed(v_document, p_new_id, 'reissue', v_document.buyer_id, p_key_id, p_envelope, p_issued_at,
                    p_serial_max);
    INSERT INTO licence_owner_keys (document_id, licence_id, public_key, registered_by, registered_at)
    SELECT p_new_id, licence_id, public_key, registered_by, registered_at
    FROM licence_owner_keys WHERE document_id = p_document_id;
    PERFORM record_licence_event(v_document.licence_id, 'licence.reissued', p_principal_id, jsonb_build_object(
        'superseded', p_document_id, 'document_id', p_new_id, 'reason', p_reason));
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION
    bound_transfers(), reissue_licence(text, text, bytea, text, text, text, text, text, timestamptz, int)
FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT EXECUTE ON FUNCTION
            reissue_licence(text, text, bytea, text, text, text, text, text, timestamptz, int) TO market_app;
    END IF;
END $$;
