-- The audit log, whoever calls its functions: what is in it already is passed over, a checkpoint is of the tree as it
-- is, and the serving role can neither date an event nor make the checker wait for earlier orders.

-- Events are dated by the database, and the log's record holds that time: the serving role names every other column.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        REVOKE INSERT ON order_events FROM market_app;
        GRANT INSERT (order_id, seq, event_id, kind, data) ON order_events TO market_app;
        REVOKE UPDATE (history_after) ON audit_log FROM market_app;
    END IF;
END $$;

-- How far the look through earlier orders is. It only goes on, so nobody makes the checker wait for it again.
CREATE FUNCTION send_audit_history(p_after text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    UPDATE audit_log SET history_after = p_after
    WHERE history_after IS NOT NULL AND (p_after IS NULL OR p_after COLLATE "C" > history_after);
END $$;

-- As before (0015), but for facts that are in the log: these are passed over. Whoever may call this can have an event
-- appended before the relay does, and no order must stand still for that. An event named like a document is refused, so
-- that it cannot take a document's place.
CREATE OR REPLACE FUNCTION append_order_events(p_spans json) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_old    bigint;
    v_asked  bigint;
    v_events bigint;
    v_count  int;
BEGIN
    SELECT size INTO v_old FROM audit_log FOR UPDATE;
    WITH spans AS MATERIALIZED (
        SELECT s.* FROM ROWS FROM (
            json_to_recordset(p_spans) AS (order_id text, first_seq int, last_seq int)
        ) WITH ORDINALITY AS s (order_id, first_seq, last_seq, place)
    ), events AS MATERIALIZED (
        SELECT s.place, e.order_id, e.seq, e.kind AS happened, e.event_id, audit_record(e) AS record
        FROM spans AS s CROSS JOIN LATERAL (
            SELECT * FROM order_events WHERE order_id = s.order_id AND seq BETWEEN s.first_seq AND s.last_seq
              AND starts_with(event_id, 'evt_') OFFSET 0
        ) AS e
    ), facts AS (
        SELECT place, seq AS at_seq, 0 AS rank, 0 AS line_no, 'event' AS kind, event_id AS subject_id, order_id, seq,
               record FROM events
        UNION ALL
        SELECT e.place, e.seq, 1, l.line_no, 'licence', l.licence_id, e.order_id, NULL, E'licence\n' || l.envelope
        FROM events AS e CROSS JOIN LATERAL (
            SELECT * FROM licences WHERE order_id = e.order_id OFFSET 0
        ) AS l WHERE e.happened = 'order.licensed'
        UNION ALL
        SELECT e.place, e.seq, 2, d.line_no, 'delivery', d.delivery_id, e.order_id, NULL, E'delivery\n' || d.manifest
        FROM events AS e CROSS JOIN LATERAL (
            SELECT * FROM deliveries WHERE order_id = e.order_id OFFSET 0
        ) AS d WHERE e.happened = 'order.delivered'
    ), salted AS MATERIALIZED (  -- so that each salt is drawn once
        SELECT f.*, uuid_send(gen_random_uuid()) AS salt
        FROM facts AS f LEFT JOIN LATERAL (
            SELECT kind, order_id, seq FROM audit_entries WHERE subject_id = f.subject_id OFFSET 0
        ) AS a ON true
        -- Another fact of this id is none of these: then the key refuses this one.
        WHERE (a.kind, a.order_id, a.seq) IS DISTINCT FROM (f.kind, f.order_id, f.seq)
    ), appended AS (
        INSERT INTO audit_entries (position, kind, subject_id, order_id, seq, salt, digest)
        SELECT v_old + row_number() OVER (ORDER BY place, at_seq, rank, line_no) - 1, kind, subject_id, order_id, seq,
               salt, sha256(salt || convert_to(record, 'UTF8'))
        FROM salted
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM appended), (SELECT count(*) FROM events),
           (SELECT sum(last_seq - first_seq + 1) FROM spans)
    INTO v_count, v_events, v_asked;
    IF v_events IS DISTINCT FROM v_asked THEN
        RAISE EXCEPTION 'events of these orders are missing' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    PERFORM grow_audit_log(v_old, v_old + v_count);
    RETURN v_count;
END $$;

-- As before, but for a document whose id another fact has taken: it waits where it is, where the checker finds it, and
-- keeps no other document out, and no checkpoint from being signed.
CREATE OR REPLACE FUNCTION append_waiting_documents(p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_old   bigint;
    v_count int;
BEGIN
    -- Before looking: what another sequencer appends meanwhile is gone then.
    SELECT size INTO v_old FROM audit_log FOR UPDATE;
    WITH page AS MATERIALIZED (
        SELECT w.place FROM audit_waiting AS w LEFT JOIN LATERAL (
            SELECT kind FROM audit_entries WHERE subject_id = w.document_id OFFSET 0
        ) AS a ON true
        WHERE a.kind IS NULL ORDER BY w.place LIMIT p_limit
    ), taken AS (
        DELETE FROM audit_waiting WHERE place IN (SELECT place FROM page)
        RETURNING place, document_id
    ), salted AS MATERIALIZED (
        SELECT t.place, s.document_id, l.order_id, E'licence\n' || s.envelope AS record,
               uuid_send(gen_random_uuid()) AS salt
        FROM taken AS t JOIN licence_successors AS s USING (document_id) JOIN licences AS l USING (licence_id)
    ), appended AS (
        INSERT INTO audit_entries (position, kind, subject_id, order_id, salt, digest)
        SELECT v_old + row_number() OVER (ORDER BY place) - 1, 'licence', document_id, order_id, salt,
               sha256(salt || convert_to(record, 'UTF8'))
        FROM salted
        RETURNING 1
    )
    SELECT count(*) INTO v_count FROM appended;
    PERFORM grow_audit_log(v_old, v_old + v_count);
    RETURN v_count;
END $$;

-- As before, but for two documents of one id, which only the serving role can make: of these that of the entry's order.
-- Before, every page of entries with such a one failed.
CREATE OR REPLACE VIEW audit_facts AS
SELECT a.position, a.kind, a.subject_id, a.order_id, a.salt, a.digest,
       CASE a.kind
           WHEN 'event' THEN (SELECT audit_record(e) FROM order_events AS e
                              WHERE e.order_id = a.order_id AND e.seq = a.seq)
           WHEN 'licence' THEN (SELECT E'licence\n' || d.envelope FROM licence_documents AS d
                                WHERE d.document_id = a.subject_id AND d.order_id = a.order_id LIMIT 1)
           ELSE (SELECT E'delivery\n' || d.manifest FROM deliveries AS d WHERE d.delivery_id = a.subject_id)
       END AS record
FROM audit_entries AS a;

-- RFC 6962 over hashes of which the last may stand for a smaller subtree: pairs, and what is left over as it is.
CREATE FUNCTION merkle_root(p_hashes bytea[]) RETURNS bytea LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_count int := array_length(p_hashes, 1);
BEGIN
    WHILE v_count > 1 LOOP
        p_hashes := ARRAY(
            SELECT CASE WHEN 2 * i > v_count THEN p_hashes[2 * i - 1]
                        ELSE sha256('\x01'::bytea || p_hashes[2 * i - 1] || p_hashes[2 * i]) END
            FROM generate_series(1, (v_count + 1) / 2) AS i ORDER BY i
        );
        v_count := (v_count + 1) / 2;
    END LOOP;
    RETURN p_hashes[1];
END $$;

-- The root of the first p_size entries: of each stored level the hashes behind its last full tile, and what is right of
-- them.
CREATE FUNCTION audit_root(p_size bigint) RETURNS bytea LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_level smallint := 0;
    v_end   bigint := p_size;
    v_begin bigint;
    v_row   bytea[];
    v_right bytea;
BEGIN
    WHILE v_end > 0 LOOP
        v_begin := v_end - v_end % 256;
        IF v_level = 0 THEN
            v_row := ARRAY(SELECT sha256('\x00'::bytea || digest) FROM audit_entries
                           WHERE position >= v_begin AND position < v_end ORDER BY position);
        ELSE
            v_row := ARRAY(SELECT hash FROM audit_subtrees
                           WHERE level = v_level AND position >= v_begin AND position < v_end ORDER BY position);
        END IF;
        IF v_right IS NOT NULL THEN
            v_row := v_row || v_right;
        END IF;
        v_right := merkle_root(v_row);
        v_end := v_begin / 256;
        v_level := v_level + 1;
    END LOOP;
    RETURN v_right;
END $$;

-- As before, but for the head: it is that of the entries here, and the note says so. What the database cannot check is
-- the signature; a note with a false one is believed by nobody.
CREATE OR REPLACE FUNCTION keep_checkpoint(p_size bigint, p_key_id text, p_root bytea, p_note text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_log  audit_log%ROWTYPE;
    v_last audit_checkpoints%ROWTYPE;
    v_text text;
BEGIN
    SELECT * INTO v_log FROM audit_log FOR UPDATE;
    SELECT * INTO v_last FROM audit_checkpoints ORDER BY size DESC LIMIT 1;
    v_text := v_log.origin || E'\n' || p_size || E'\n' || encode(p_root, 'base64') || E'\n';
    IF (p_size BETWEEN coalesce(v_last.size, 1) AND v_log.size) IS NOT TRUE
       OR audit_root(p_size) IS DISTINCT FROM p_root
       OR NOT starts_with(p_note, v_text || E'\n— ' || v_log.origin || ' ') THEN
        RAISE EXCEPTION 'this head does not follow the last checkpoint'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    INSERT INTO audit_checkpoints (size, key_id, root, note, at)
    VALUES (p_size, p_key_id, p_root, p_note, greatest(clock_timestamp(), v_last.at)) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

-- The signer looks for the newest checkpoint of keys that are believed.
CREATE INDEX audit_checkpoints_by_key ON audit_checkpoints (key_id, size);

REVOKE ALL ON FUNCTION send_audit_history(text), merkle_root(bytea[]), audit_root(bigint) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT EXECUTE ON FUNCTION send_audit_history(text) TO market_app;
    END IF;
END $$;
