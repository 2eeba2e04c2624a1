-- name: offer_transfer
SELECT market.offer_transfer(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(document_id)s,
                             %(to_buyer_id)s, %(life_s)s)

-- name: end_transfer
SELECT market.end_transfer(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s)

-- name: accept_transfer
SELECT market.accept_transfer(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s, %(new_id)s,
                              %(key_id)s, %(envelope)s, %(issued_at)s, %(serial_max)s)

-- name: renew_licence
SELECT market.renew_licence(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(document_id)s,
                            %(renewed_id)s, %(subject)s, %(key_id)s, %(envelope)s, %(issued_at)s, %(serial_max)s)

-- name: reissue_licence
SELECT market.reissue_licence(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(document_id)s, %(reason)s,
                              %(subject)s, %(key_id)s, %(envelope)s, %(issued_at)s, %(serial_max)s)

-- name: transfer
SELECT transfer_id, document_id, from_buyer_id, to_buyer_id,
       CASE WHEN status = 'offered' AND expires_at <= clock_timestamp() THEN 'expired' ELSE status END,
       successor_id, offered_at, expires_at, closed_at
FROM market.licence_transfers WHERE transfer_id = %(transfer_id)s

-- name: activate
SELECT a.activation_id, a.document_id, a.fingerprint, a.name, a.kind, a.activated_at, a.heartbeat_at, a.held_until
FROM market.activate_licence(%(document_id)s, %(activation_id)s, %(fingerprint)s, %(name)s, %(kind)s, %(lease_s)s) AS a

-- name: heartbeat
SELECT a.activation_id, a.document_id, a.fingerprint, a.name, a.kind, a.activated_at, a.heartbeat_at, a.held_until
FROM market.renew_activation(%(activation_id)s, %(document_id)s, %(lease_s)s) AS a

-- name: release
SELECT market.release_activation(%(activation_id)s, %(owner)s)

-- name: activations
SELECT a.activation_id, a.document_id, a.fingerprint, a.name, a.kind, a.activated_at, a.heartbeat_at, a.held_until
FROM market.licence_activations AS a
WHERE a.licence_id = %(licence_id)s AND (a.held_until IS NULL OR a.held_until > clock_timestamp())
ORDER BY a.activated_at, a.activation_id LIMIT %(limit)s

-- name: documents_of_buyer
-- Through the buyer's orders, so that issuing a licence keeps no index of its own for this. The collations are those
-- of the indexes: `orders` compares ids byte by byte, `licences` by the database's own.
SELECT id FROM (
    SELECT l.licence_id AS id
    FROM market.orders AS o JOIN market.licences AS l ON l.order_id = o.order_id COLLATE "default"
    WHERE o.buyer_id = %(buyer_id)s
    UNION ALL
    SELECT s.document_id FROM market.licence_successors AS s WHERE s.buyer_id = %(buyer_id)s
) AS given
WHERE id COLLATE "C" < %(before)s
  AND NOT EXISTS (SELECT FROM market.licence_successors AS n WHERE n.supersedes = given.id)
ORDER BY id COLLATE "C" DESC LIMIT %(limit)s

-- name: documents
-- Apart from the list of ids: Postgres does not carry a join's condition into both halves of the view.
SELECT document_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, standing, key_id, envelope, issued_at,
       licence_id, serial
FROM market.licence_documents WHERE document_id = ANY (%(document_ids)s)
ORDER BY document_id COLLATE "C" DESC

-- name: register_owner_key
SELECT market.register_owner_key(%(principal_id)s, %(idempotency_key)s, %(request_digest)s, %(subject)s,
                                 %(public_key)s)

-- name: owner_key
SELECT public_key FROM market.licence_owner_keys WHERE document_id = %(document_id)s

-- name: challenge
SELECT market.open_challenge(%(document_id)s, %(nonce_sha256)s, %(purpose)s, %(life_s)s, %(open_max)s, %(cleared_max)s)

-- name: answer_challenge
-- Of two equal answers at once, the second waits for the first and finds the challenge used.
UPDATE market.ownership_challenges SET used_at = now()
WHERE nonce_sha256 = %(nonce_sha256)s AND document_id = %(document_id)s AND purpose = %(purpose)s
  AND used_at IS NULL AND expires_at > now()
RETURNING true

-- name: challenge_state
SELECT CASE WHEN used_at IS NOT NULL THEN 'used' WHEN expires_at <= now() THEN 'expired' ELSE 'open' END
FROM market.ownership_challenges
WHERE nonce_sha256 = %(nonce_sha256)s AND document_id = %(document_id)s AND purpose = %(purpose)s
