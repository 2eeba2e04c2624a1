-- Dead letters: effects and webhooks that were buried, and events that a consumer parked. Each decision is one
-- statement: it locks the letter, claims the idempotency key, changes the work and records the operator's
-- action (invariant I12), or does nothing at all. It returns no row when the letter is not dead (any more) or
-- the key was used before; `known` and the key's record then tell which.

-- name: page
-- Newest first, by (dead_since, letter_id), below the cursor. Each branch reads its partial index from the
-- end and stops after a page. Ids are compared byte by byte, whatever the database's own collation.
SELECT letter_id, kind, order_id, work, code, error, attempts, dead_since
FROM (
    (SELECT * FROM (
        SELECT ('effect:' || order_id || ':' || step) COLLATE "C" AS letter_id, 'effect' AS kind, order_id,
               step AS work, dead_code AS code, last_error AS error, attempts, dead_at AS dead_since
        FROM market.effects WHERE dead_at IS NOT NULL AND dead_at <= %(before)s
     ) AS e
     WHERE %(effects)s AND (dead_since, letter_id) < (%(before)s, %(before_id)s)
     ORDER BY dead_since DESC, letter_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM (
        SELECT ('webhook:' || event_id) COLLATE "C", 'webhook', order_id, kind, dead_code, outcome, attempts, dead_at
        FROM market.inbox WHERE dead_at IS NOT NULL AND dead_at <= %(before)s
     ) AS w (letter_id, kind, order_id, work, code, error, attempts, dead_since)
     WHERE %(webhooks)s AND (dead_since, letter_id) < (%(before)s, %(before_id)s)
     ORDER BY dead_since DESC, letter_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM (
        SELECT ('event:' || consumer || ':' || order_id) COLLATE "C", 'event', order_id, consumer, code, error,
               attempts, parked_at
        FROM market.stuck_events WHERE parked_at IS NOT NULL AND parked_at <= %(before)s
     ) AS s (letter_id, kind, order_id, work, code, error, attempts, dead_since)
     WHERE %(events)s AND (dead_since, letter_id) < (%(before)s, %(before_id)s)
     ORDER BY dead_since DESC, letter_id DESC LIMIT %(limit)s)
) AS letters
ORDER BY dead_since DESC, letter_id DESC LIMIT %(limit)s

-- name: retry_effect
-- Due now and with all its tries before it again; a sweep takes it up.
WITH dead AS MATERIALIZED (
    SELECT order_id, step, dead_code, last_error, attempts FROM market.effects
    WHERE order_id = %(order_id)s AND step = %(work)s AND dead_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), revived AS (
    UPDATE market.effects AS x SET dead_at = NULL, dead_code = NULL, attempts = 0, unforeseen = 0, due_at = now()
    FROM dead, claimed WHERE x.order_id = dead.order_id AND x.step = dead.step
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.retry', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', step, 'code', dead_code, 'error', last_error,
                          'attempts', attempts)
FROM dead, claimed
RETURNING action_id

-- name: drop_effect
WITH dead AS MATERIALIZED (
    SELECT order_id, step, dead_code, last_error, attempts FROM market.effects
    WHERE order_id = %(order_id)s AND step = %(work)s AND dead_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), dropped AS (
    DELETE FROM market.effects AS x USING dead, claimed WHERE x.order_id = dead.order_id AND x.step = dead.step
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.drop', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', step, 'code', dead_code, 'error', last_error,
                          'attempts', attempts)
FROM dead, claimed
RETURNING action_id

-- name: retry_webhook
WITH dead AS MATERIALIZED (
    SELECT event_id, order_id, kind, dead_code, outcome, attempts FROM market.inbox
    WHERE event_id = %(event_id)s AND dead_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), revived AS (
    UPDATE market.inbox AS i SET dead_at = NULL, dead_code = NULL, attempts = 0, unforeseen = 0, due_at = now()
    FROM dead, claimed WHERE i.event_id = dead.event_id
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.retry', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', kind, 'code', dead_code, 'error', outcome,
                          'attempts', attempts)
FROM dead, claimed
RETURNING action_id

-- name: drop_webhook
-- Processed from now on: Stripe may send it again, and it stays dropped.
WITH dead AS MATERIALIZED (
    SELECT event_id, order_id, kind, payload, dead_code, outcome, attempts FROM market.inbox
    WHERE event_id = %(event_id)s AND dead_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), dropped AS (
    UPDATE market.inbox AS i SET dead_at = NULL, dead_code = NULL, processed_at = now(), outcome = 'dropped'
    FROM dead, claimed WHERE i.event_id = dead.event_id
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.drop', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', kind, 'code', dead_code, 'error', outcome,
                          'attempts', attempts, 'payload', payload)
FROM dead, claimed
RETURNING action_id

-- name: retry_event
-- The outbox row makes a relay send the order's events again, from the parked one on.
WITH dead AS MATERIALIZED (
    SELECT consumer, order_id, seq, code, error, attempts FROM market.stuck_events
    WHERE consumer = %(work)s AND order_id = %(order_id)s AND parked_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), freed AS (
    DELETE FROM market.stuck_events AS s USING dead, claimed
    WHERE s.consumer = dead.consumer AND s.order_id = dead.order_id
), queued AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT %(shard)s, dead.order_id, dead.seq,
           (SELECT max(e.seq) FROM market.order_events AS e WHERE e.order_id = %(order_id)s::text)
    FROM dead, claimed
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.retry', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', consumer, 'code', code, 'error', error,
                          'attempts', attempts, 'seq', seq)
FROM dead, claimed
RETURNING action_id

-- name: drop_event
-- As a retry, with the event counted as taken.
WITH dead AS MATERIALIZED (
    SELECT consumer, order_id, seq, code, error, attempts FROM market.stuck_events
    WHERE consumer = %(work)s AND order_id = %(order_id)s AND parked_at IS NOT NULL
    FOR UPDATE
), claimed AS (
    INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject, response)
    SELECT %(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(response)s::jsonb FROM dead
    ON CONFLICT DO NOTHING
    RETURNING subject
), freed AS (
    DELETE FROM market.stuck_events AS s USING dead, claimed
    WHERE s.consumer = dead.consumer AND s.order_id = dead.order_id
), passed AS (
    UPDATE market.consumer_progress AS p SET seq = dead.seq FROM dead, claimed
    WHERE p.consumer = dead.consumer AND p.order_id = dead.order_id AND p.seq = dead.seq - 1
), queued AS (
    INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
    SELECT %(shard)s, dead.order_id, dead.seq,
           (SELECT max(e.seq) FROM market.order_events AS e WHERE e.order_id = %(order_id)s::text)
    FROM dead, claimed
)
INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)
SELECT %(action_id)s, %(principal_id)s, 'dead_letter.drop', subject, %(reason)s,
       jsonb_build_object('order_id', order_id, 'work', consumer, 'code', code, 'error', error,
                          'attempts', attempts, 'seq', seq)
FROM dead, claimed
RETURNING action_id

-- name: known
-- Whether there is, or was, work of this name.
SELECT EXISTS (SELECT FROM market.operator_actions WHERE subject = %(subject)s)
    OR EXISTS (SELECT FROM market.effects WHERE order_id = %(order_id)s AND step = %(work)s)
    OR EXISTS (SELECT FROM market.inbox WHERE event_id = %(event_id)s)
    OR EXISTS (SELECT FROM market.stuck_events WHERE consumer = %(work)s AND order_id = %(order_id)s)

-- name: backlog
-- Each count stops at its bound, so that the query costs as little in an incident as in peace.
SELECT (SELECT count(*) FROM (SELECT FROM market.effects WHERE dead_at IS NULL AND due_at < now()
                              LIMIT %(counted_max)s) AS e),
       (SELECT count(*) FROM (SELECT FROM market.inbox WHERE processed_at IS NULL AND dead_at IS NULL
                              AND due_at < now() LIMIT %(counted_max)s) AS w),
       (SELECT count(*) FROM (SELECT FROM market.effects WHERE dead_at IS NOT NULL LIMIT %(counted_max)s) AS e),
       (SELECT count(*) FROM (SELECT FROM market.inbox WHERE dead_at IS NOT NULL LIMIT %(counted_max)s) AS w),
       (SELECT count(*) FROM (SELECT FROM market.stuck_events WHERE parked_at IS NOT NULL
                              LIMIT %(counted_max)s) AS s)
