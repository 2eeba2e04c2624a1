-- name: append_order_events
SELECT market.append_order_events(%(spans)s::json)

-- name: append_waiting_documents
SELECT market.append_waiting_documents(%(limit)s::int)

-- name: keep_checkpoint
SELECT market.keep_checkpoint(%(size)s::bigint, %(key_id)s::text, %(root)s::bytea, %(note)s::text)

-- name: state
SELECT origin, size, history_after FROM market.audit_log

-- name: newest_checkpoint
SELECT size, root, note, key_id, at FROM market.audit_checkpoints ORDER BY size DESC, at DESC LIMIT 1

-- name: newest_checkpoints_by
-- Of some keys; whoever has the serving role's password may have named one for a note that it did not sign.
SELECT c.note FROM unnest(%(key_ids)s::text[]) AS k (key_id) CROSS JOIN LATERAL (
    SELECT size, note, at FROM market.audit_checkpoints
    WHERE key_id = k.key_id ORDER BY size DESC LIMIT %(limit)s
) AS c ORDER BY c.size DESC, c.at DESC LIMIT %(limit)s

-- name: has_checkpoints
SELECT EXISTS (SELECT FROM market.audit_checkpoints)

-- name: checkpoint_before
SELECT size, root, note, key_id, at FROM market.audit_checkpoints
WHERE at < %(before)s ORDER BY at DESC, size DESC LIMIT 1

-- name: checkpoint_of_size
SELECT size, root, note, key_id, at FROM market.audit_checkpoints WHERE size = %(size)s ORDER BY at LIMIT 1

-- name: rows
-- Rows of hashes: `count` of a level from place `begin` on, joined. Leaves are hashed here, the others are stored.
SELECT coalesce(string_agg(h.hash, ''::bytea ORDER BY h.position), ''::bytea)
FROM ROWS FROM (
    json_to_recordset(%(rows)s::json) AS (level smallint, begin bigint, count bigint)
) WITH ORDINALITY AS r (level, begin, count, place)
LEFT JOIN LATERAL (
    SELECT e.position, sha256('\x00'::bytea || e.digest) AS hash FROM market.audit_entries AS e
    WHERE r.level = 0 AND e.position >= r.begin AND e.position < r.begin + r.count
    UNION ALL
    SELECT t.position, t.hash FROM market.audit_subtrees AS t
    WHERE t.level = r.level AND t.position >= r.begin AND t.position < r.begin + r.count
) AS h ON true
GROUP BY r.place ORDER BY r.place

-- name: digests
SELECT digest FROM market.audit_entries
WHERE position >= %(begin)s AND position < %(end)s ORDER BY position

-- name: entry
SELECT position, kind, subject_id, salt, digest, record FROM market.audit_facts WHERE subject_id = %(subject_id)s

-- name: entries
SELECT position, kind, subject_id, salt, digest, record FROM market.audit_facts
WHERE position >= %(begin)s AND position < %(end)s ORDER BY position

-- name: is_party
-- Whether a buyer may see an entry: the order's buyer its events and deliveries; a licence's document is its owner's,
-- for it may have been handed on.
SELECT EXISTS (
    SELECT FROM market.audit_entries AS a JOIN market.orders AS o ON o.order_id = a.order_id
    WHERE a.subject_id = %(subject_id)s AND a.kind <> 'licence' AND o.buyer_id = %(buyer_id)s
) OR EXISTS (
    SELECT FROM market.licence_documents WHERE document_id = %(subject_id)s AND buyer_id = %(buyer_id)s
)

-- name: backlog
SELECT count(*) FROM (SELECT FROM market.outbox LIMIT %(limit)s) AS counted

-- name: send_unlogged
-- Publishes again what orders of the page recorded and the log has not taken. The order's row is locked, so that the
-- position lies behind those of its earlier commits and before those of later ones.
WITH page AS MATERIALIZED (
    SELECT order_id FROM market.orders WHERE order_id > %(after)s ORDER BY order_id LIMIT %(limit)s
), behind AS MATERIALIZED (
    SELECT o.order_id, o.seq, coalesce(p.seq, 0) AS taken_seq
    FROM page JOIN market.orders AS o USING (order_id)
    LEFT JOIN LATERAL (
        SELECT seq FROM market.consumer_progress WHERE consumer = %(consumer)s AND order_id = o.order_id OFFSET 0
    ) AS p ON true
    WHERE coalesce(p.seq, 0) < o.seq
    FOR UPDATE OF o
), queued AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT crc32(convert_to(order_id, 'UTF8')) %% 16, order_id, taken_seq + 1, seq FROM behind
)
SELECT max(order_id), count(*), (SELECT count(*) FROM behind) FROM page

-- name: history_sent
SELECT market.send_audit_history(%(after)s::text)
