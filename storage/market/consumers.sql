-- Lists travel as JSON, as in outbox.sql. LATERAL with OFFSET 0 pins look-ups by key: joined freely, a plan
-- made while the tables were nearly empty would scan them for as long as it is kept.

-- name: progress
-- An order without a row: nothing of it was taken, or, before the settled time, everything.
SELECT a.order_id,
       CASE WHEN p.seq IS NOT NULL THEN p.seq
            ELSE (SELECT coalesce(max(e.seq), 0) FROM market.order_events e
                  WHERE e.order_id = a.order_id
                    AND e.at < (SELECT settled_before FROM market.consumers WHERE consumer = %(consumer)s))
       END,
       coalesce(s.attempts, 0), s.parked_at IS NOT NULL
FROM json_array_elements_text(%(order_ids)s::json) AS a (order_id)
LEFT JOIN LATERAL (
    SELECT seq FROM market.consumer_progress
    WHERE consumer = %(consumer)s AND order_id = a.order_id OFFSET 0
) AS p ON true
LEFT JOIN market.stuck_events s ON s.consumer = %(consumer)s AND s.order_id = a.order_id AND s.seq = p.seq + 1

-- name: advance
-- Compare-and-set for every order at once; the caller rolls back unless as many rows moved as it asked for.
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(steps)s::json) AS a (order_id text, from_seq int, to_seq int)
), moved AS (
    INSERT INTO market.consumer_progress AS p (consumer, order_id, seq, from_seq)
    SELECT %(consumer)s, order_id, to_seq, from_seq FROM asked ORDER BY order_id
    ON CONFLICT (consumer, order_id) DO UPDATE SET seq = excluded.seq, from_seq = excluded.from_seq
    WHERE p.seq = excluded.from_seq
    RETURNING 1
), freed AS (
    DELETE FROM market.stuck_events AS s USING asked AS a
    WHERE s.consumer = %(consumer)s AND s.order_id = a.order_id AND s.seq <= a.to_seq
)
SELECT count(*) FROM moved

-- name: begin_progress
INSERT INTO market.consumer_progress (consumer, order_id, seq, from_seq)
VALUES (%(consumer)s, %(order_id)s, %(seq)s - 1, %(seq)s - 1)
ON CONFLICT DO NOTHING

-- name: record_failure
-- What is parked stays parked, whatever another instance reports late: its event was acknowledged to the bus.
-- No row comes back when the consumer has moved on.
INSERT INTO market.stuck_events AS s (consumer, order_id, seq, attempts, code, error, parked_at)
SELECT %(consumer)s, order_id, %(seq)s, 1, %(code)s, %(error)s, CASE WHEN %(parked)s THEN now() END
FROM market.consumer_progress
WHERE consumer = %(consumer)s AND order_id = %(order_id)s AND seq = %(seq)s - 1
FOR UPDATE
ON CONFLICT (consumer, order_id) DO UPDATE SET
    attempts = CASE WHEN s.seq = excluded.seq THEN s.attempts + 1 ELSE 1 END,
    since = CASE WHEN s.seq = excluded.seq THEN s.since ELSE excluded.since END,
    seq = excluded.seq, code = excluded.code, error = excluded.error,
    parked_at = CASE WHEN s.seq = excluded.seq THEN coalesce(s.parked_at, excluded.parked_at)
                     ELSE excluded.parked_at END
RETURNING parked_at IS NOT NULL

-- name: count_parked
SELECT consumer, count(*) FROM market.stuck_events WHERE parked_at IS NOT NULL GROUP BY consumer

-- name: register
INSERT INTO market.consumers (consumer) VALUES (%(consumer)s) ON CONFLICT DO NOTHING

-- name: settle
-- Nothing is settled while something old waits in the outbox, nor before a consumer has been there for that
-- long: its operator may still send it the history. Collations as in `lag`.
WITH cutoff AS (
    SELECT now() - %(quiet_s)s * interval '1 second' AS at
    FROM market.consumers
    WHERE consumer = %(consumer)s AND registered_at < now() - %(quiet_s)s * interval '1 second'
      AND NOT EXISTS (
        SELECT FROM unnest(%(shards)s::smallint[]) AS s (shard)
        CROSS JOIN LATERAL (
            SELECT order_id, first_seq FROM market.outbox WHERE shard = s.shard ORDER BY position LIMIT 1
        ) AS o
        JOIN market.order_events e ON e.order_id = o.order_id COLLATE "default" AND e.seq = o.first_seq
        WHERE e.at < now() - %(quiet_s)s * interval '0.5 second'
      )
), page AS MATERIALIZED (
    SELECT p.order_id FROM market.consumer_progress p, cutoff
    WHERE p.consumer = %(consumer)s AND p.order_id > %(after)s AND p.order_id < %(younger)s
    ORDER BY p.order_id LIMIT %(limit)s
), gone AS (
    DELETE FROM market.consumer_progress AS p USING page, cutoff, LATERAL (
        SELECT max(e.seq) AS seq, max(e.at) AS at FROM market.order_events e
        WHERE e.order_id = page.order_id COLLATE "default"
    ) AS last
    WHERE p.consumer = %(consumer)s AND p.order_id = page.order_id AND p.seq = last.seq AND last.at < cutoff.at
), moved AS (
    UPDATE market.consumers AS c SET settled_before = greatest(settled_before, cutoff.at) FROM cutoff
    WHERE c.consumer = %(consumer)s
)
SELECT max(order_id), count(*) FROM page
