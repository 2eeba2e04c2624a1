-- A scratch database of complete, delivered orders, by sets. Numbers are the orders' own: order n belongs to
-- buyer n modulo the number of buyers. `@N@` in a text is the number, sixteen digits long.

-- name: orders
INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor, payment_handle, created_at, updated_at)
SELECT %(order)s || lpad(n::text, 16, '0'), 'usr_growth_' || n %% %(buyers)s, 'delivered', 7, 'USD', %(total_minor)s,
       %(payment_handle)s::jsonb, now(), now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: commands
-- Buyers choose their keys, so these come in no order.
INSERT INTO market.commands (principal_id, idempotency_key, request_digest, subject)
SELECT 'usr_growth_' || n %% %(buyers)s, md5(n::text), sha256(int8send(n)), %(order)s || lpad(n::text, 16, '0')
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: events
INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
SELECT %(order)s || lpad(n::text, 16, '0'), e.seq, 'evt_01ky0000' || lpad(e.seq::text, 2, '0') || lpad(n::text, 16, '0'),
       e.kind, replace(e.data, '@N@', lpad(n::text, 16, '0'))::jsonb
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
CROSS JOIN unnest(%(seqs)s::int[], %(kinds)s::text[], %(datas)s::text[]) AS e (seq, kind, data)

-- name: inbox
-- Stripe promises no order of its event ids.
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, processed_at, outcome)
SELECT 'evt_' || substr(md5('stripe' || n), 1, 24), %(order)s || lpad(n::text, 16, '0'), 'payment_intent.succeeded',
       %(payload)s::jsonb, now(), now(), 'applied'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: licences
INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, key_id, envelope, issued_at)
SELECT %(licence)s || lpad(n::text, 16, '0'), %(order)s || lpad(n::text, 16, '0'), 1, 'usr_growth_' || n %% %(buyers)s,
       %(sku_id)s, %(release_id)s, 1, 'key_bench', (%(envelopes)s::text[])[1 + n %% %(documents)s], now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: deliveries
INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode, recipient, header, manifest)
SELECT %(delivery)s || lpad(n::text, 16, '0'), %(order)s || lpad(n::text, 16, '0'), 1, 'usr_growth_' || n %% %(buyers)s,
       %(release_id)s, 'recipient', %(recipient)s, %(header)s, (%(manifests)s::text[])[1 + n %% %(documents)s]
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n

-- name: entries
-- An entry is written with all its postings by one statement, or its triggers refuse it.
WITH added AS (
    INSERT INTO finance.entries (entry_key, currency, occurred_at, description, content_digest, posting_count)
    SELECT %(order)s || lpad(n::text, 16, '0') || ':capture', 'USD', now(), 'Sale', sha256(int8send(n)),
           cardinality(%(accounts)s::text[])
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    RETURNING entry_id, currency, occurred_at
)
INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
SELECT added.entry_id, p.position, p.account, p.amount_minor, added.currency, added.occurred_at
FROM added
CROSS JOIN unnest(%(accounts)s::text[], %(amounts)s::bigint[]) WITH ORDINALITY AS p (account, amount_minor, position)

-- name: fees
-- Stripe's processing fees, as the reconciliation books them.
WITH added AS (
    INSERT INTO finance.entries (entry_key, currency, occurred_at, description, content_digest, posting_count)
    SELECT %(order)s || lpad(n::text, 16, '0') || ':fee', 'USD', %(at)s, 'Processing fee', sha256(int8send(-n)), 2
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    RETURNING entry_id, currency, occurred_at
)
INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
SELECT added.entry_id, p.position, p.account, p.amount_minor, added.currency, added.occurred_at
FROM added
CROSS JOIN unnest(%(fee_accounts)s::text[], %(fee_amounts)s::bigint[])
    WITH ORDINALITY AS p (account, amount_minor, position)

-- name: sizes
SELECT pg_database_size(current_database()),
       (SELECT count(*) FROM market.orders), (SELECT count(*) FROM market.order_events)
