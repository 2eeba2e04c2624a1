-- The audit log as a whole, for the checker.

-- name: log_size
SELECT size FROM market.audit_log

-- name: log_entries
SELECT position, digest FROM market.audit_entries ORDER BY position

-- name: log_checkpoints
SELECT DISTINCT size, root FROM market.audit_checkpoints ORDER BY size

-- name: log_subtrees
-- In the order in which entries complete them.
SELECT level, position, hash FROM market.audit_subtrees ORDER BY (position + 1) << (8 * level), level

-- name: log_notes
SELECT size, root, note FROM market.audit_checkpoints ORDER BY size DESC, at DESC LIMIT %(limit)s
