-- The audit log: one Merkle tree (RFC 6962) over everything that happened to orders and over what was issued. A row
-- here is never changed. Functions of the owner write all of it: they read the facts themselves, so the serving role
-- can have a fact appended and cannot say what it is, where it stands or what its digest is.

-- The one row is the fence: who appends holds its lock, so positions are 0..size-1 without a gap, whoever else tries.
-- `history_after` is the order up to which events from before the log were sent to it; null: all were.
CREATE TABLE audit_log (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    origin        text   NOT NULL,
    size          bigint NOT NULL DEFAULT 0 CHECK (size BETWEEN 0 AND 9007199254740991),
    history_after text COLLATE "C"
) WITH (fillfactor = 20);  -- one row that changes all the time: leave room for HOT updates
ALTER TABLE audit_log SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- An entry is a salted digest. `salt` is taken away when a fact is erased, and nothing else ever is.
CREATE TABLE audit_entries (
    position   bigint PRIMARY KEY,
    kind       text   NOT NULL CHECK (kind IN ('event', 'licence', 'delivery')),
    subject_id text   NOT NULL UNIQUE,  -- the event's or document's id: each is in the log once
    order_id   text   NOT NULL,
    seq        int CHECK ((seq IS NOT NULL) = (kind = 'event')),
    salt       bytea CHECK (octet_length(salt) = 16),
    digest     bytea  NOT NULL CHECK (octet_length(digest) = 32)
);

-- Roots of complete subtrees of 256^level leaves. Leaves are not here: their hashes are those of the entries.
CREATE TABLE audit_subtrees (
    level    smallint CHECK (level > 0),
    position bigint,
    hash     bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, position)
);

-- Heads that the platform has signed, with the time at which they were kept. One per size and signing key: after a
-- rotation the new key signs the same head.
CREATE TABLE audit_checkpoints (
    size   bigint      NOT NULL CHECK (size > 0),
    key_id text        NOT NULL,
    root   bytea       NOT NULL CHECK (octet_length(root) = 32),
    note   text        NOT NULL CHECK (length(note) <= 4096),
    at     timestamptz NOT NULL,
    PRIMARY KEY (size, key_id)
);
CREATE INDEX audit_checkpoints_by_time ON audit_checkpoints (at, size);

-- Documents that came into being outside an order's events (transfers, renewals), until they are in the log.
CREATE TABLE audit_waiting (
    place       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document_id text NOT NULL UNIQUE
);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only appended to: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_log_grows BEFORE UPDATE ON audit_log FOR EACH ROW
    WHEN (NEW.size < OLD.size OR NEW.origin <> OLD.origin) EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_log_stays BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_entries_are_facts BEFORE UPDATE ON audit_entries FOR EACH ROW
    WHEN (NEW.salt IS NOT NULL OR (NEW.position, NEW.kind, NEW.subject_id, NEW.order_id, NEW.seq, NEW.digest)
          IS DISTINCT FROM (OLD.position, OLD.kind, OLD.subject_id, OLD.order_id, OLD.seq, OLD.digest))
    EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_entries_stay BEFORE DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_subtrees_are_facts BEFORE UPDATE OR DELETE ON audit_subtrees
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_checkpoints_are_facts BEFORE UPDATE OR DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();

-- Records: what an entry commits to; `domain.audit.entries` writes the same text.
-- Without a search path of its own, so that it is inlined.
CREATE FUNCTION audit_record(p_event order_events) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(E'\n', 'event', p_event.event_id, p_event.order_id, p_event.seq, p_event.kind,
                     to_char(p_event.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p_event.data::text)
$$;

-- Entries with the record that each is about, as it stands now.
CREATE VIEW audit_facts AS
SELECT a.position, a.kind, a.subject_id, a.order_id, a.salt, a.digest,
       CASE a.kind
           WHEN 'event' THEN (SELECT audit_record(e) FROM order_events AS e
                              WHERE e.order_id = a.order_id AND e.seq = a.seq)
           WHEN 'licence' THEN (SELECT E'licence\n' || d.envelope FROM licence_documents AS d
                                WHERE d.document_id = a.subject_id)
           ELSE (SELECT E'delivery\n' || d.manifest FROM deliveries AS d WHERE d.delivery_id = a.subject_id)
       END AS record
FROM audit_entries AS a;

CREATE FUNCTION root_of_256(p_hashes bytea[]) RETURNS bytea LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    IF array_length(p_hashes, 1) IS DISTINCT FROM 256 THEN
        RAISE EXCEPTION 'a full tile has 256 hashes' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    WHILE array_length(p_hashes, 1) > 1 LOOP
        p_hashes := ARRAY(
            SELECT sha256('\x01'::bytea || p_hashes[2 * i - 1] || p_hashes[2 * i])
            FROM generate_series(1, array_length(p_hashes, 1) / 2) AS i ORDER BY i
        );
    END LOOP;
    RETURN p_hashes[1];
END $$;

-- Completes the subtrees that entries from p_old to p_new - 1 complete, and says how long the log is now. Called by who
-- holds the log's lock and has inserted them.
CREATE FUNCTION grow_audit_log(p_old bigint, p_new bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_level smallint := 1;
    v_first bigint := p_old / 256;
    v_last  bigint := p_new / 256;
    v_place bigint;
    v_hash  bytea;
BEGIN
    IF p_new = p_old THEN
        RETURN;
    END IF;
    UPDATE audit_log SET size = p_new;
    WHILE v_last > v_first LOOP
        FOR v_place IN v_first .. v_last - 1 LOOP
            IF v_level = 1 THEN
                v_hash := root_of_256(ARRAY(
                    SELECT sha256('\x00'::bytea || digest) FROM audit_entries
                    WHERE position >= v_place * 256 AND position < (v_place + 1) * 256 ORDER BY position));
            ELSE
                v_hash := root_of_256(ARRAY(
                    SELECT hash FROM audit_subtrees
                    WHERE level = v_level - 1 AND position >= v_place * 256 AND position < (v_place + 1) * 256
                    ORDER BY position));
            END IF;
            INSERT INTO audit_subtrees (level, position, hash) VALUES (v_level, v_place, v_hash);
        END LOOP;
        v_first := v_first / 256;
        v_last := v_last / 256;
        v_level := v_level + 1;
    END LOOP;
END $$;

-- The sequencer's step of the consumer `audit`: stretches of orders' events, in the order in which they were
-- published. What an event issued follows it: licences, then delivery manifests. Returns how many entries it made.
CREATE FUNCTION append_order_events(p_spans json) RETURNS int
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
            SELECT * FROM order_events WHERE order_id = s.order_id AND seq BETWEEN s.first_seq AND s.last_seq OFFSET 0
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
        SELECT f.*, uuid_send(gen_random_uuid()) AS salt FROM facts AS f
    ), appended AS (
        INSERT INTO audit_entries (position, kind, subject_id, order_id, seq, salt, digest)
        SELECT v_old + row_number() OVER (ORDER BY place, at_seq, rank, line_no) - 1, kind, subject_id, order_id, seq,
               salt, sha256(salt || convert_to(record, 'UTF8'))
        FROM salted
        RETURNING kind
    )
    SELECT count(*), count(*) FILTER (WHERE kind = 'event'), (SELECT sum(last_seq - first_seq + 1) FROM spans)
    INTO v_count, v_events, v_asked FROM appended;
    IF v_events IS DISTINCT FROM v_asked THEN
        RAISE EXCEPTION 'events of these orders are missing' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    PERFORM grow_audit_log(v_old, v_old + v_count);
    RETURN v_count;
END $$;

-- The sequencer's other step: documents that no order event issued. Returns how many.
CREATE FUNCTION append_waiting_documents(p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_old   bigint;
    v_count int;
BEGIN
    -- Before looking: what another sequencer appends meanwhile is gone then.
    SELECT size INTO v_old FROM audit_log FOR UPDATE;
    WITH taken AS (
        DELETE FROM audit_waiting WHERE place IN (SELECT place FROM audit_waiting ORDER BY place LIMIT p_limit)
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

CREATE FUNCTION await_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
BEGIN
    INSERT INTO audit_waiting (document_id) VALUES (NEW.document_id);
    RETURN NULL;
END $$;
CREATE TRIGGER successors_await_audit AFTER INSERT ON licence_successors
    FOR EACH ROW EXECUTE FUNCTION await_audit();

-- Keeps a signed head; false when it is kept already. Times rise with sizes, because the lock orders both.
CREATE FUNCTION keep_checkpoint(p_size bigint, p_key_id text, p_root bytea, p_note text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, market, pg_temp AS $$
DECLARE
    v_size bigint;
    v_last audit_checkpoints%ROWTYPE;
BEGIN
    SELECT size INTO v_size FROM audit_log FOR UPDATE;
    SELECT * INTO v_last FROM audit_checkpoints ORDER BY size DESC LIMIT 1;
    IF p_size > v_size OR p_size < v_last.size OR (p_size = v_last.size AND p_root <> v_last.root) THEN
        RAISE EXCEPTION 'this head does not follow the last checkpoint'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    INSERT INTO audit_checkpoints (size, key_id, root, note, at)
    VALUES (p_size, p_key_id, p_root, p_note, greatest(clock_timestamp(), v_last.at)) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

-- The log begins with all that there is: orders' events come through the outbox, page by page.
INSERT INTO audit_log (origin, history_after)
SELECT 'illuvrse.marketplace/audit/' || replace(gen_random_uuid()::text, '-', ''),
       CASE WHEN EXISTS (SELECT FROM orders) THEN '' END;
INSERT INTO audit_waiting (document_id) SELECT document_id FROM licence_successors ORDER BY recorded_at, document_id;

-- Functions are everybody's unless that is taken back.
REVOKE ALL ON FUNCTION
    refuse_audit_change(), audit_record(order_events), root_of_256(bytea[]), grow_audit_log(bigint, bigint),
    append_order_events(json), append_waiting_documents(int), await_audit(),
    keep_checkpoint(bigint, text, bytea, text)
FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'market_app') THEN
        GRANT SELECT ON audit_log, audit_entries, audit_facts, audit_subtrees, audit_checkpoints, audit_waiting
        TO market_app;
        GRANT UPDATE (history_after) ON audit_log TO market_app;
        GRANT EXECUTE ON FUNCTION
            audit_record(order_events), append_order_events(json), append_waiting_documents(int),
            keep_checkpoint(bigint, text, bytea, text)
        TO market_app;
    END IF;
END $$;
