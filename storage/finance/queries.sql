-- name: post_entries
-- Post a batch in one statement, whole or not at all. The parameter is a JSON array in the order of
-- entry_key: two overlapping batches then wait for each other's keys in the same order, never in a cycle.
-- Returns one row per key that is now posted and visible, fresh or not. A key is missing when another
-- session committed it while this statement ran: entries_by_keys finds it then.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::text::json) AS input (
        k text, c text, t timestamptz, d text, h text, n smallint, a text[], m bigint[], o timestamptz)
), fresh AS (
    INSERT INTO finance.entries
        (entry_key, currency, occurred_at, description, content_digest, posting_count, original_occurred_at)
    SELECT k, c, t, d, decode(h, 'hex'), n, o FROM input ORDER BY k COLLATE "C"
    ON CONFLICT (entry_key) DO NOTHING
    RETURNING entry_id, entry_key, posted_at, content_digest
), legs AS (
    INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
    SELECT fresh.entry_id, leg.position, leg.account, leg.amount_minor, input.c, input.t
    FROM fresh JOIN input ON input.k = fresh.entry_key
    CROSS JOIN LATERAL unnest(input.a, input.m) WITH ORDINALITY AS leg (account, amount_minor, position)
)
SELECT entry_key, entry_id, posted_at, content_digest, true AS fresh, NULL::timestamptz, NULL::timestamptz FROM fresh
UNION ALL
SELECT known.entry_key, known.entry_id, known.posted_at, known.content_digest, false, known.occurred_at,
       known.original_occurred_at
FROM input CROSS JOIN LATERAL (
    -- LIMIT keeps this one index probe per key whatever the statistics say when the plan is made.
    SELECT * FROM finance.entries WHERE entry_key = input.k LIMIT 1
) known;

-- name: post_reversal
-- The same for one entry that reverses another, whose key is r.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::text::json) AS input (k text, c text, t timestamptz, d text, h text,
        n smallint, a text[], m bigint[], o timestamptz, r text)
), fresh AS (
    INSERT INTO finance.entries (entry_key, currency, occurred_at, description, content_digest, posting_count,
                                 original_occurred_at, reverses_entry_id)
    SELECT k, c, t, d, decode(h, 'hex'), n, o, reversed.entry_id
    FROM input JOIN finance.entries reversed ON reversed.entry_key = input.r
    ON CONFLICT (entry_key) DO NOTHING
    RETURNING entry_id, entry_key, posted_at, content_digest
), legs AS (
    INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
    SELECT fresh.entry_id, leg.position, leg.account, leg.amount_minor, input.c, input.t
    FROM fresh JOIN input ON input.k = fresh.entry_key
    CROSS JOIN LATERAL unnest(input.a, input.m) WITH ORDINALITY AS leg (account, amount_minor, position)
)
SELECT entry_key, entry_id, posted_at, content_digest, true AS fresh, NULL::timestamptz, NULL::timestamptz FROM fresh
UNION ALL
SELECT known.entry_key, known.entry_id, known.posted_at, known.content_digest, false, known.occurred_at,
       known.original_occurred_at
FROM input JOIN finance.entries known ON known.entry_key = input.k;

-- name: entries_by_keys
SELECT entry_key, entry_id, posted_at, content_digest, false AS fresh, occurred_at, original_occurred_at
FROM finance.entries WHERE entry_key = ANY(%s);

-- name: entry_by_key
-- With the keys of the entry that it reverses and of the one that reverses it.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, e.original_occurred_at,
       (SELECT entry_key FROM finance.entries WHERE entry_id = e.reverses_entry_id),
       (SELECT entry_key FROM finance.entries WHERE reverses_entry_id = e.entry_id),
       legs.accounts, legs.amounts
FROM finance.entries e
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
WHERE e.entry_key = %s;

-- name: entries_page
-- All entries in posting order, after the entry id of the cursor.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, e.original_occurred_at,
       (SELECT entry_key FROM finance.entries WHERE entry_id = e.reverses_entry_id),
       (SELECT entry_key FROM finance.entries WHERE reverses_entry_id = e.entry_id),
       legs.accounts, legs.amounts
FROM (SELECT * FROM finance.entries WHERE entry_id > %s ORDER BY entry_id LIMIT %s) e
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY e.entry_id;

-- name: entries_page_of_account
-- The same for the entries that touch one account. Parameters: account, after entry id, limit.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, e.original_occurred_at,
       (SELECT entry_key FROM finance.entries WHERE entry_id = e.reverses_entry_id),
       (SELECT entry_key FROM finance.entries WHERE reverses_entry_id = e.entry_id),
       legs.accounts, legs.amounts
FROM (
    SELECT DISTINCT entry_id FROM finance.postings
    WHERE account = %s AND entry_id > %s ORDER BY entry_id LIMIT %s
) touched
JOIN finance.entries e USING (entry_id)
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY e.entry_id;

-- name: entries_page_of_window
-- The entries that touch one account in one currency and occurred in a window, by date and then in posting
-- order, after the cursor's date and entry id.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, e.original_occurred_at,
       (SELECT entry_key FROM finance.entries WHERE entry_id = e.reverses_entry_id),
       (SELECT entry_key FROM finance.entries WHERE reverses_entry_id = e.entry_id),
       legs.accounts, legs.amounts
FROM (
    SELECT DISTINCT occurred_at, entry_id FROM finance.postings
    WHERE account = %(account)s AND currency = %(currency)s AND occurred_at < %(until)s::timestamptz
      AND (occurred_at, entry_id) > (%(after)s::timestamptz, %(after_id)s::bigint)
    ORDER BY occurred_at, entry_id LIMIT %(limit)s
) touched
JOIN finance.entries e ON e.entry_id = touched.entry_id
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY touched.occurred_at, e.entry_id;

-- name: entries_page_of_prefix
-- The entries whose keys begin with a text, by key, after the cursor's key. `{` is above every character of a key.
SELECT e.entry_id, e.entry_key, e.currency, e.occurred_at, e.posted_at, e.description, e.original_occurred_at,
       (SELECT entry_key FROM finance.entries WHERE entry_id = e.reverses_entry_id),
       (SELECT entry_key FROM finance.entries WHERE reverses_entry_id = e.entry_id),
       legs.accounts, legs.amounts
FROM (
    SELECT * FROM finance.entries
    WHERE entry_key >= %(prefix)s AND entry_key < %(prefix)s::text || '{' AND entry_key > %(after)s
    ORDER BY entry_key LIMIT %(limit)s
) e
CROSS JOIN LATERAL (
    SELECT array_agg(account ORDER BY position) AS accounts, array_agg(amount_minor ORDER BY position) AS amounts
    FROM finance.postings WHERE postings.entry_id = e.entry_id
) legs
ORDER BY e.entry_key;

-- name: ready
SELECT original_occurred_at FROM finance.entries LIMIT 1;
