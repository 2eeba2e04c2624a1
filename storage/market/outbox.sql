-- Lists travel as JSON: psycopg quotes the elements of an array one by one, in Python.

-- name: join_relays
SELECT pg_advisory_lock_shared(%(lock_class)s, %(membership)s)

-- name: standing
-- Every relay holds the membership lock, shared; who owns a shard holds its lock alone.
SELECT count(*) FILTER (WHERE objid::bigint = %(membership)s),
       coalesce(array_agg(objid::int) FILTER (WHERE objid::bigint <> %(membership)s), '{}')
FROM pg_locks
WHERE locktype = 'advisory' AND classid::bigint = %(lock_class)s AND objsubid = 2 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: take_shard
SELECT pg_try_advisory_lock(%(lock_class)s, %(shard)s)

-- name: release_shard
SELECT pg_advisory_unlock(%(lock_class)s, %(shard)s)

-- name: read_outbox
SELECT o.position, o.shard, o.order_id, o.first_seq, o.last_seq
FROM unnest(%(shards)s::smallint[]) AS s (shard)
CROSS JOIN LATERAL (
    SELECT position, shard, order_id, first_seq, last_seq FROM market.outbox
    WHERE shard = s.shard AND order_id <> ALL(%(without)s::text[])
    ORDER BY position LIMIT %(rows_per_shard)s
) AS o
ORDER BY o.position

-- name: load_events
SELECT e.event_id, e.order_id, e.seq, e.kind, e.data::text, e.at
FROM json_to_recordset(%(spans)s::json) AS s (order_id text, first_seq int, last_seq int)
JOIN market.order_events e ON e.order_id = s.order_id AND e.seq BETWEEN s.first_seq AND s.last_seq
ORDER BY e.order_id, e.seq

-- name: delete_published
DELETE FROM market.outbox AS o
USING json_to_recordset(%(rows)s::json) AS p (shard smallint, position bigint)
WHERE o.shard = p.shard AND o.position = p.position

-- name: lag
-- The collation is spelt out because the index of order_events has the database's.
SELECT s.shard, waiting.rows, coalesce(extract(epoch FROM greatest(now() - e.at, interval '0')), 0)::float8
FROM unnest(%(shards)s::smallint[]) AS s (shard)
CROSS JOIN LATERAL (
    SELECT count(*) AS rows
    FROM (SELECT FROM market.outbox WHERE shard = s.shard LIMIT %(counted_max)s) AS counted
) AS waiting
LEFT JOIN LATERAL (
    SELECT order_id, first_seq FROM market.outbox WHERE shard = s.shard ORDER BY position LIMIT 1
) AS o ON true
LEFT JOIN market.order_events e ON e.order_id = o.order_id COLLATE "default" AND e.seq = o.first_seq

-- name: enqueue_history
-- For a consumer that came later: everything that these orders recorded is published again. The order's row
-- is locked, so that the position lies behind those of its earlier commits and before those of later ones.
WITH page AS (
    SELECT order_id, seq FROM market.orders
    WHERE order_id > %(after)s ORDER BY order_id LIMIT %(limit)s FOR UPDATE
), queued AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT crc32(convert_to(order_id, 'UTF8')) %% 16, order_id, 1, seq FROM page
)
SELECT max(order_id), count(*) FROM page
