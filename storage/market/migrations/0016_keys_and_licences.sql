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
