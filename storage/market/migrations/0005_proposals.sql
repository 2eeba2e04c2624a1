-- Changes of what may change money are proposals that k of n operators approve. The gate is here: the serving
-- role may read these tables and call three functions, and no version of a governed document is ever stored, by
-- whatever path and role, unless k distinct keys of current operators other than the proposer's approved it.
-- Signatures cannot be checked in SQL: they are verified before a call, and again by `ops proposals verify`.
--
-- Refusals are raised as GV001 with the code as their message; domain/proposals/refusals.py has their texts.

-- One row per proposed version. Only its end may ever be written onto it.
CREATE TABLE proposals (
    proposal_id       text COLLATE "C" PRIMARY KEY CHECK (proposal_id ~ '^prp_[0-9a-hjkmnp-tv-z]{26}$'),
    kind              text        NOT NULL,
    base_version      int         NOT NULL CHECK (base_version > 0),
    previous_sha256   text        NOT NULL,
    document          text        NOT NULL CHECK (octet_length(document) <= 65536),
    document_sha256   text        NOT NULL CHECK (document_sha256 = encode(sha256(convert_to(document, 'UTF8')), 'hex')),
    reason            text        NOT NULL,
    principal_id      text        NOT NULL,
    key_id            text        NOT NULL,
    envelope          text        NOT NULL,  -- the proposer's DSSE envelope
    operators_version int         NOT NULL,  -- whose votes count; a change of operators makes it stale
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    status            text        NOT NULL DEFAULT 'open'
                      CHECK (status IN ('open', 'applied', 'rejected', 'withdrawn', 'stale', 'expired')),
    closed_at         timestamptz,
    CHECK (expires_at > created_at AND expires_at <= created_at + interval '720 hours'),
    CHECK ((status = 'open') = (closed_at IS NULL))
);
CREATE INDEX proposals_open ON proposals (proposal_id) WHERE status = 'open';

-- One word per key and proposal, for good.
CREATE TABLE proposal_votes (
    proposal_id  text COLLATE "C" NOT NULL REFERENCES proposals,
    key_id       text        NOT NULL,
    decision     text        NOT NULL CHECK (decision IN ('approve', 'reject')),
    principal_id text        NOT NULL,
    reason       text        NOT NULL,
    envelope     text        NOT NULL,
    at           timestamptz NOT NULL,
    PRIMARY KEY (proposal_id, key_id)
);

-- The versions: a chain per kind, and by `position` the order in which all of them were applied.
CREATE TABLE governed_versions (
    kind              text COLLATE "C" NOT NULL CHECK (kind IN (
        'price_model', 'platform_fees', 'royalty_splits', 'licence_model', 'payment_flow', 'operators')),
    version           int         NOT NULL CHECK (version > 0),
    document          text        NOT NULL CHECK (octet_length(document) <= 65536),
    document_sha256   text        NOT NULL CHECK (document_sha256 = encode(sha256(convert_to(document, 'UTF8')), 'hex')),
    previous_sha256   text,
    proposal_id       text COLLATE "C" UNIQUE REFERENCES proposals,
    operators_version int,
    applied_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    position          bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    PRIMARY KEY (kind, version),
    CHECK ((version = 1) = (proposal_id IS NULL)),
    CHECK ((version = 1) = (previous_sha256 IS NULL)),
    CHECK ((version = 1) = (operators_version IS NULL))
);

CREATE FUNCTION refuse_proposal(p_code text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'GV001', MESSAGE = p_code;
END $$;

-- Ids of an operators document's keys, as domain/signing.py names them.
CREATE FUNCTION operator_key_ids(p_document text) RETURNS text[] LANGUAGE sql
SET search_path = pg_catalog, market, pg_temp AS $$
    SELECT array_agg(DISTINCT 'key_' || left(encode(sha256(decode(one ->> 'public_key', 'base64')), 'hex'), 16))
    FROM jsonb_array_elements(p_document::jsonb -> 'operators') AS one
$$;

CREATE FUNCTION current_operators(OUT version int, OUT threshold int, OUT key_ids text[]) LANGUAGE sql
SET search_path = pg_catalog, market, pg_temp AS $$
    SELECT g.version, (g.document::jsonb ->> 'threshold')::int, operator_key_ids(g.document)
    FROM governed_versions AS g WHERE g.kind = 'operators' ORDER BY g.version DESC LIMIT 1
$$;

-- Distinct keys of current operators, the proposer's left out, that decided so.
CREATE FUNCTION count_votes(p_proposal_id text, p_decision text) RETURNS int LANGUAGE sql
SET search_path = pg_catalog, market, pg_temp AS $$
    SELECT count(DISTINCT v.key_id)::int
    FROM proposal_votes AS v JOIN proposals AS p USING (proposal_id), current_operators() AS o
    WHERE v.proposal_id = p_proposal_id AND v.decision = p_decision
      AND v.key_id = ANY (o.key_ids) AND v.key_id <> p.key_id
$$;

-- The rule, for every row that is ever inserted.
CREATE FUNCTION require_approvals() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_proposal  proposals%ROWTYPE;
    v_base      governed_versions%ROWTYPE;
    v_operators record;
BEGIN
    -- An older snapshot could count under operators who are gone.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM refuse_proposal('governed_isolation');
    END IF;
    NEW.applied_at := clock_timestamp();
    IF NEW.kind = 'operators' AND NOT coalesce(
        (NEW.document::jsonb ->> 'threshold')::int BETWEEN 1 AND cardinality(operator_key_ids(NEW.document)) - 1, false
    ) THEN
        PERFORM refuse_proposal('proposal_document_invalid');
    END IF;
    SELECT * INTO v_base FROM governed_versions WHERE kind = NEW.kind ORDER BY version DESC LIMIT 1;
    IF NEW.proposal_id IS NULL THEN
        IF v_base.version IS NOT NULL OR NEW.version <> 1 THEN
            PERFORM refuse_proposal('proposal_unapproved');
        END IF;
        RETURN NEW;
    END IF;
    SELECT * INTO v_proposal FROM proposals WHERE proposal_id = NEW.proposal_id FOR UPDATE;
    SELECT * INTO v_operators FROM current_operators();
    IF v_proposal.status IS DISTINCT FROM 'open' OR v_operators.version IS NULL THEN
        PERFORM refuse_proposal('proposal_unapproved');
    END IF;
    IF v_proposal.expires_at <= NEW.applied_at THEN
        PERFORM refuse_proposal('proposal_expired');
    END IF;
    IF (v_base.version, v_base.document_sha256, v_operators.version)
        IS DISTINCT FROM (v_proposal.base_version, v_proposal.previous_sha256, v_proposal.operators_version) THEN
        PERFORM refuse_proposal('proposal_stale');
    END IF;
    IF (NEW.kind, NEW.version, NEW.document, NEW.previous_sha256, NEW.operators_version) IS DISTINCT FROM
        (v_proposal.kind, v_base.version + 1, v_proposal.document, v_base.document_sha256, v_operators.version) THEN
        PERFORM refuse_proposal('proposal_statement_mismatch');
    END IF;
    IF count_votes(NEW.proposal_id, 'approve') < v_operators.threshold THEN
        PERFORM refuse_proposal('proposal_unapproved');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER governed_versions_are_approved BEFORE INSERT ON governed_versions
    FOR EACH ROW EXECUTE FUNCTION require_approvals();
CREATE TRIGGER governed_versions_are_facts BEFORE UPDATE OR DELETE ON governed_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER proposal_votes_are_facts BEFORE UPDATE OR DELETE ON proposal_votes
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_reopening() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'open' OR to_jsonb(NEW) - '{status,closed_at}'::text[] <> to_jsonb(OLD) - '{status,closed_at}'::text[]
    THEN
        RAISE EXCEPTION 'a proposal is a fact but for its end' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER proposals_end_once BEFORE UPDATE ON proposals FOR EACH ROW EXECUTE FUNCTION refuse_reopening();
CREATE TRIGGER proposals_are_facts BEFORE DELETE ON proposals FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- One decision at a time, over all documents: readers are never in its way.
CREATE FUNCTION lock_proposals() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM refuse_proposal('governed_isolation');
    END IF;
    LOCK TABLE governed_versions IN SHARE ROW EXCLUSIVE MODE;
    UPDATE proposals SET status = 'expired', closed_at = expires_at
    WHERE status = 'open' AND expires_at <= clock_timestamp();
END $$;

-- What a caller is answered, kept under the idempotency key that was claimed before; and the operator's action.
CREATE FUNCTION record_proposal_action(
    p_principal_id text, p_idempotency_key text, p_proposal_id text, p_action text, p_action_id text,
    p_key_id text, p_reason text, p_body jsonb
) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_body jsonb;
    v_detail jsonb;
BEGIN
    SELECT p_body || jsonb_build_object(
               'status', p.status, 'approvals', count_votes(p.proposal_id, 'approve'),
               'rejections', count_votes(p.proposal_id, 'reject'),
               'approvals_needed', (o.document::jsonb ->> 'threshold')::int,
               'version', CASE p.status WHEN 'applied' THEN p.base_version + 1 END),
           jsonb_build_object('kind', p.kind, 'base_version', p.base_version, 'document_sha256', p.document_sha256,
                              'key_id', p_key_id, 'status', p.status)
    INTO STRICT v_body, v_detail
    FROM proposals AS p JOIN governed_versions AS o ON o.kind = 'operators' AND o.version = p.operators_version
    WHERE p.proposal_id = p_proposal_id;
    UPDATE commands SET response = v_body
    WHERE principal_id = p_principal_id AND idempotency_key = p_idempotency_key;
    INSERT INTO operator_actions (action_id, principal_id, action, subject, reason, detail)
    VALUES (p_action_id, p_principal_id, p_action, p_proposal_id, p_reason, v_detail);
    RETURN v_body;
END $$;

CREATE FUNCTION propose_change(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_action_id text, p_body jsonb,
    p_proposal_id text, p_kind text, p_base_version int, p_previous_sha256 text, p_document text,
    p_document_sha256 text, p_expires_at timestamptz, p_key_id text, p_reason text, p_envelope text
) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_base      governed_versions%ROWTYPE;
    v_operators record;
    v_now       timestamptz;
BEGIN
    PERFORM lock_proposals();
    v_now := clock_timestamp();
    INSERT INTO commands (principal_id, idempotency_key, request_digest, subject)
    VALUES (p_principal_id, p_idempotency_key, p_request_digest, p_proposal_id) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO v_operators FROM current_operators();
    IF v_operators.version IS NULL THEN
        PERFORM refuse_proposal('operators_missing');
    ELSIF NOT p_key_id = ANY (v_operators.key_ids) THEN
        PERFORM refuse_proposal('approval_key_unknown');
    ELSIF EXISTS (SELECT FROM proposals WHERE proposal_id = p_proposal_id) THEN
        PERFORM refuse_proposal('proposal_id_taken');
    ELSIF p_expires_at <= v_now OR p_expires_at > v_now + interval '720 hours' THEN
        PERFORM refuse_proposal('proposal_expiry_invalid');
    END IF;
    SELECT * INTO v_base FROM governed_versions WHERE kind = p_kind ORDER BY version DESC LIMIT 1;
    IF (v_base.version, v_base.document_sha256) IS DISTINCT FROM (p_base_version, p_previous_sha256) THEN
        PERFORM refuse_proposal('proposal_base_stale');
    ELSIF p_document_sha256 = p_previous_sha256 THEN
        PERFORM refuse_proposal('proposal_document_unchanged');
    ELSIF (SELECT count(*) FROM proposals WHERE status = 'open') >= 20 THEN
        PERFORM refuse_proposal('proposals_full');
    END IF;
    INSERT INTO proposals (proposal_id, kind, base_version, previous_sha256, document, document_sha256, reason,
                           principal_id, key_id, envelope, operators_version, created_at, expires_at)
    VALUES (p_proposal_id, p_kind, p_base_version, p_previous_sha256, p_document, p_document_sha256, p_reason,
            p_principal_id, p_key_id, p_envelope, v_operators.version, v_now, p_expires_at);
    RETURN record_proposal_action(p_principal_id, p_idempotency_key, p_proposal_id, 'proposal.propose', p_action_id,
                                  p_key_id, p_reason, p_body);
END $$;

-- `approve` or `reject`. With the k-th approval the version is applied here and now.
CREATE FUNCTION vote_on_proposal(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_action_id text, p_body jsonb,
    p_proposal_id text, p_decision text, p_key_id text, p_reason text, p_envelope text
) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_proposal  proposals%ROWTYPE;
    v_operators record;
    v_now       timestamptz;
BEGIN
    PERFORM lock_proposals();
    v_now := clock_timestamp();
    INSERT INTO commands (principal_id, idempotency_key, request_digest, subject)
    VALUES (p_principal_id, p_idempotency_key, p_request_digest, p_proposal_id) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO v_proposal FROM proposals WHERE proposal_id = p_proposal_id FOR UPDATE;
    SELECT * INTO v_operators FROM current_operators();
    IF NOT FOUND OR v_proposal.proposal_id IS NULL THEN
        PERFORM refuse_proposal('proposal_not_found');
    ELSIF v_proposal.status <> 'open' THEN
        PERFORM refuse_proposal('proposal_' || v_proposal.status);
    ELSIF v_proposal.operators_version <> v_operators.version THEN
        PERFORM refuse_proposal('proposal_stale');
    ELSIF NOT p_key_id = ANY (v_operators.key_ids) THEN
        PERFORM refuse_proposal('approval_key_unknown');
    ELSIF p_key_id = v_proposal.key_id THEN
        PERFORM refuse_proposal('approval_own_proposal');
    ELSIF EXISTS (SELECT FROM proposal_votes WHERE proposal_id = p_proposal_id AND key_id = p_key_id) THEN
        PERFORM refuse_proposal('approval_duplicate');
    END IF;
    INSERT INTO proposal_votes (proposal_id, key_id, decision, principal_id, reason, envelope, at)
    VALUES (p_proposal_id, p_key_id, p_decision, p_principal_id, p_reason, p_envelope, v_now);
    IF count_votes(p_proposal_id, 'approve') >= v_operators.threshold THEN
        INSERT INTO governed_versions (kind, version, document, document_sha256, previous_sha256, proposal_id,
                                       operators_version)
        VALUES (v_proposal.kind, v_proposal.base_version + 1, v_proposal.document, v_proposal.document_sha256,
                v_proposal.previous_sha256, p_proposal_id, v_operators.version);
        UPDATE proposals SET status = 'applied', closed_at = v_now WHERE proposal_id = p_proposal_id;
        UPDATE proposals SET status = 'stale', closed_at = v_now
        WHERE status = 'open' AND v_proposal.kind IN (kind, 'operators');
    ELSIF cardinality(v_operators.key_ids) - 1 - count_votes(p_proposal_id, 'reject') < v_operators.threshold THEN
        UPDATE proposals SET status = 'rejected', closed_at = v_now WHERE proposal_id = p_proposal_id;
    END IF;
    RETURN record_proposal_action(p_principal_id, p_idempotency_key, p_proposal_id, 'proposal.' || p_decision,
                                  p_action_id, p_key_id, p_reason, p_body);
END $$;

CREATE FUNCTION withdraw_proposal(
    p_principal_id text, p_idempotency_key text, p_request_digest bytea, p_action_id text, p_body jsonb,
    p_proposal_id text, p_key_id text, p_reason text
) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_proposal proposals%ROWTYPE;
BEGIN
    PERFORM lock_proposals();
    INSERT INTO commands (principal_id, idempotency_key, request_digest, subject)
    VALUES (p_principal_id, p_idempotency_key, p_request_digest, p_proposal_id) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO v_proposal FROM proposals WHERE proposal_id = p_proposal_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM refuse_proposal('proposal_not_found');
    ELSIF v_proposal.status <> 'open' THEN
        PERFORM refuse_proposal('proposal_' || v_proposal.status);
    ELSIF p_key_id <> v_proposal.key_id THEN
        PERFORM refuse_proposal('withdrawal_not_proposer');
    END IF;
    UPDATE proposals SET status = 'withdrawn', closed_at = clock_timestamp() WHERE proposal_id = p_proposal_id;
    RETURN record_proposal_action(p_principal_id, p_idempotency_key, p_proposal_id, 'proposal.withdraw', p_action_id,
                                  p_key_id, p_reason, p_body);
END $$;

-- The first versions say what the marketplace does anyway. The operators' is put in by hand, once.
INSERT INTO governed_versions (kind, version, document, document_sha256) VALUES
    ('price_model', 1,
     '{"currencies":["AED","AFN","ALL","AMD","AOA","ARS","AUD","AWG","AZN","BAM","BBD","BDT","BGN","BHD","BIF","BMD","BND","BOB","BRL","BSD","BWP","BYN","BZD","CAD","CDF","CHF","CLP","CNY","COP","CRC","CVE","CZK","DJF","DKK","DOP","DZD","EGP","ETB","EUR","FJD","FKP","GBP","GEL","GIP","GMD","GNF","GTQ","GYD","HKD","HNL","HTG","HUF","IDR","ILS","INR","ISK","JMD","JOD","JPY","KES","KGS","KHR","KMF","KRW","KWD","KYD","KZT","LAK","LBP","LKR","LRD","LSL","MAD","MDL","MGA","MKD","MMK","MNT","MOP","MUR","MVR","MWK","MXN","MYR","MZN","NAD","NGN","NIO","NOK","NPR","NZD","OMR","PAB","PEN","PGK","PHP","PKR","PLN","PYG","QAR","RON","RSD","RUB","RWF","SAR","SBD","SCR","SEK","SGD","SHP","SLE","SOS","SRD","SZL","THB","TJS","TND","TOP","TRY","TTD","TWD","TZS","UAH","UGX","USD","UYU","UZS","VND","VUV","WST","XAF","XCD","XOF","XPF","YER","ZAR","ZMW"],"discount_percent_max":100}',
     'e36374881b7e1d0393d4eb9335a6a3fdada4f1955a63722ca37d9a0498fd9d1f'),
    ('platform_fees', 1,
     '{"fee_bps":1000,"fee_fixed_minor":{},"holdback_bps":0,"holdback_days":0,"payout_minimum_minor":{}}',
     '1f39b9117ef5bb1995e023fa21353e1fcb449a2ad85aba21aa557c44b0702d57'),
    ('royalty_splits', 1,
     '{"default":[{"bps":10000,"payee":"seller"}],"skus":{}}',
     '11da1793f2b23700935f6da0ce891e08ae0a67de18583dbec78fc144edea8717'),
    ('licence_model', 1,
     '{"grace_days":0,"policies":["perpetual","timed"],"timed_days_max":3660}',
     '4a124349aa3b7119f7613b7e1b5d212e34e401ee55f3d27c3e86a0eed70c4838'),
    ('payment_flow', 1,
     '{"authorisation_deadline_s":432000,"capture":"manual_when_flagged","checkout_allowed":true,"refund_window_s":2592000}',
     '01a756be06fee5ebe9b6b395b8c28c484e42b8418cc765bf75be280054b5e9c0');

-- Functions are everybody's unless that is taken back.
REVOKE ALL ON FUNCTION
    refuse_proposal(text), operator_key_ids(text), current_operators(), count_votes(text, text), require_approvals(),
    refuse_reopening(), lock_proposals(),
    record_proposal_action(text, text, text, text, text, text, text, jsonb),
    propose_change(text, text, bytea, text, jsonb, text, text, int, text, text, text, timestamptz, text, text, text),
    vote_on_proposal(text, text, bytea, text, jsonb, text, text, text, text, text),
    withdraw_proposal(text, text, bytea, text, jsonb, text, text, text)
FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT ON proposals, proposal_votes, governed_versions TO market_app;
        GRANT EXECUTE ON FUNCTION
            propose_change(text, text, bytea, text, jsonb, text, text, int, text, text, text, timestamptz, text, text, text),
            vote_on_proposal(text, text, bytea, text, jsonb, text, text, text, text, text),
            withdraw_proposal(text, text, bytea, text, jsonb, text, text, text)
        TO market_app;
    END IF;
END $$;
