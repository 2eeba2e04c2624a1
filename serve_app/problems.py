"""Errors as RFC 9457 problem documents, and the one table of the ingress's HTTP statuses.

``code`` is the stable name that clients branch on; ``detail`` is for people. docs/errors.md says for each
code what it means and what to do; a test holds the two together. An unexpected exception is a plain 500
whose text says nothing about the inside.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from domain.errors import (
    BusyError,
    ConflictError,
    DependencyError,
    MarketplaceError,
    NotFoundError,
    RejectedError,
)

PROBLEM_JSON = "application/problem+json"
FIELD_ERRORS_MAX = 20  # enough to mend a form; a hostile body could cause thousands

TABLE: dict[str, tuple[int, str]] = {
    # The request as such
    "body_malformed": (400, "The body is not sound JSON"),
    "json_duplicate_key": (400, "An object names a member twice"),
    "json_number_invalid": (400, "A number is not JSON's, or too large"),
    "cursor_invalid": (400, "The cursor is not one of ours"),
    "idempotency_key_missing": (400, "An Idempotency-Key is needed"),
    "idempotency_key_malformed": (400, "The Idempotency-Key is malformed"),
    "webhook_signature_invalid": (400, "The webhook is not signed by Stripe, or not now"),
    "token_missing": (401, "A bearer token is needed"),
    "token_invalid": (401, "The bearer token is unknown or revoked"),
    "role_not_allowed": (403, "This role may not do that"),
    "route_not_found": (404, "No such resource"),
    "method_not_allowed": (405, "The resource has no such method"),
    "body_too_large": (413, "The body is too large"),
    "content_type_unsupported": (415, "The body's media type is not supported"),
    "body_invalid": (422, "A field is missing, unknown or wrong"),
    "card_number_found": (422, "A card number does not belong here"),
    "query_invalid": (422, "A query parameter is wrong"),
    "idempotency_key_reused": (422, "The Idempotency-Key names another request"),
    "idempotency_in_progress": (409, "The first request is still running"),
    "rate_limited": (429, "Too many requests"),
    # Catalogue
    "sku_not_found": (404, "No such SKU"),
    "release_not_found": (404, "No such release"),
    "seller_key_not_found": (404, "No such seller's key"),
    "sku_name_taken": (409, "The SKU name is taken"),
    "sku_unpublished": (409, "The SKU is not on sale yet"),
    "seller_key_taken": (409, "The key belongs to another seller"),
    "seller_keys_full": (409, "Too many active keys"),
    "release_version_taken": (409, "The version exists"),
    "release_already_published": (409, "The release is published"),
    "publication_in_progress": (409, "The release is being published"),
    "version_not_newer": (409, "The channel has a version as high"),
    "release_not_published": (409, "The release is a draft"),
    "upload_missing": (409, "No upload in parts is under way"),
    "upload_incomplete": (409, "Parts of the upload are missing or wrong"),
    "bundle_changed": (409, "The bundle changed"),
    "bundle_not_uploaded": (409, "The bundle is not uploaded"),
    "sku_name_invalid": (422, "The SKU name is malformed"),
    "sku_text_too_long": (422, "A text is missing or too long"),
    "price_invalid": (422, "A price is out of range"),
    "price_list_changed": (409, "The price list has changed"),
    "tax_category_invalid": (422, "The tax category is malformed"),
    "public_key_invalid": (422, "The public key is not sound"),
    "public_key_type_wrong": (422, "The public key is of another kind"),
    "version_invalid": (422, "The version is not semantic"),
    "channel_unknown": (422, "No such channel"),
    "bundle_size_invalid": (422, "The bundle's length is out of range"),
    "upload_part_unknown": (422, "The upload has no such part"),
    "seller_key_revoked": (422, "The key that signed is revoked"),
    "manifest_invalid": (422, "The manifest is malformed"),
    "payload_type_wrong": (422, "The signed document is of another kind"),
    "manifest_signature_invalid": (422, "No key of the seller signed the manifest"),
    "manifest_mismatch": (422, "The manifest is not about this bundle"),
    "bundle_unsafe": (422, "The bundle is not safe to unpack"),
    # The audit log
    "audit_entry_not_found": (404, "Nothing of this id is in the log"),
    "audit_tile_not_found": (404, "The log has no such tile"),
    "checkpoint_missing": (404, "There is no such checkpoint"),
    "audit_entry_pending": (409, "No checkpoint covers the entry yet"),
    "audit_entry_erased": (410, "What the entry was about is erased"),
    "audit_event_needed": (422, "The audit log must have this event"),
    "audit_log_damaged": (503, "The audit log is damaged"),
    "checkpoint_refused": (503, "The checkpoint does not follow"),
    # Orders
    "policy_blocked": (403, "The sale is not permitted"),
    "order_not_found": (404, "No such order"),
    "delivery_not_found": (404, "No such delivery"),
    "order_not_delivered": (409, "The order is not delivered yet"),
    "delivery_has_recipient": (409, "The delivery has no key to release"),
    "delivery_links_limited": (429, "Too many links to the delivery"),
    "delivery_joining": (503, "The delivery is being put together"),
    "delivery_key_expired": (410, "The delivery's key is gone"),
    "lines_out_of_range": (422, "Too few or too many lines"),
    "line_duplicate": (422, "Two lines name the same SKU"),
    "quantity_out_of_range": (422, "A quantity is out of range"),
    "currency_unknown": (422, "The currency is not accepted"),
    "currency_not_offered": (422, "A SKU is not sold in this currency"),
    "currency_not_sold": (422, "The marketplace does not sell in this currency"),
    "total_out_of_range": (422, "The total is out of range"),
    "payees_out_of_range": (422, "Too many payees in one order"),
    "free_orders_full": (409, "Too many free orders within a day"),
    # Discounts and tax
    "discount_unknown": (422, "No such discount code"),
    "discount_not_valid": (409, "The code is not valid now"),
    "discount_used_up": (409, "The code is used up"),
    "discount_not_applicable": (422, "The code is not for this cart"),
    "discount_minimum": (422, "The cart is too small for the code"),
    "discount_currency": (422, "The code is for other currencies"),
    "discount_not_found": (404, "No such discount code"),
    "discount_code_taken": (409, "The code exists"),
    "discount_invalid": (422, "The code's rule makes no sense"),
    "discount_too_large": (422, "The discount is above the maximum"),
    "reason_missing": (422, "A reason is needed"),
    "tax_country_needed": (422, "The buyer's country is needed"),
    "tax_rate_missing": (422, "There is no tax rate for this sale"),
    "tax_refused": (422, "The tax service refuses the address"),
    "tax_table_changed": (409, "The tax table has changed"),
    "tax_table_invalid": (422, "The tax table is not sound"),
    "tax_table_missing": (503, "There is no tax table"),
    "tax_unavailable": (503, "The tax service is unavailable"),
    "recipient_invalid": (422, "The recipient is not an age recipient"),
    "recipient_unsafe": (422, "The recipient is not a sound key"),
    "recipient_mismatch": (422, "Recipient and delivery mode do not fit"),
    "delivery_mode_unknown": (422, "No such delivery mode"),
    "payment_method_unknown": (422, "No such payment method"),
    "checkout_not_offered": (422, "The hosted page is switched off"),
    "order_not_cancellable": (409, "The order cannot be cancelled any more"),
    # Reviews
    "review_not_found": (404, "The order was not flagged"),
    "review_not_open": (409, "There is nothing to decide now"),
    "review_decided": (409, "The review was decided otherwise"),
    "reviewer_not_independent": (403, "The reviewer has a part in the order"),
    # Refunds
    "order_not_refundable": (409, "Nothing was paid for the order"),
    "order_disputed": (409, "The payment is disputed"),
    "refund_window_closed": (409, "The time to ask for a refund is over"),
    "refund_exceeds_captured": (409, "More than is left to refund"),
    "refund_line_returned": (409, "The line is refunded already"),
    "refunds_full": (409, "Too many refunds of one order"),
    "refund_amount_invalid": (422, "The amount cannot be refunded"),
    "refund_line_unknown": (422, "The order has no such line"),
    "refund_line_duplicate": (422, "A line is named twice"),
    "licence_not_active": (409, "The line's licence does not hold"),
    # Disputes
    "dispute_not_found": (404, "No such dispute"),
    "dispute_closed": (409, "The dispute is closed"),
    "evidence_submitted": (409, "Evidence was submitted already"),
    "evidence_late": (409, "The time for evidence is over"),
    "evidence_full": (409, "Too many drafts of one dispute"),
    # Payments and licences
    "webhook_order_unknown": (404, "The webhook names an order that is not here"),
    "licence_not_found": (404, "No such licence"),
    "key_list_missing": (404, "No root has signed a key list"),
    "key_root_missing": (409, "There is no root"),
    "key_lists_full": (409, "The record of key lists is full"),
    "key_list_not_newer": (409, "The list does not follow the current one"),
    "key_list_invalid": (422, "This is no sound key list"),
    "key_list_signature_invalid": (422, "The root did not sign this list"),
    "key_list_refused": (422, "The list may not follow the current one"),
    "licence_superseded": (409, "A newer document counts"),
    "licence_expired": (409, "The licence has ended"),
    "licence_not_begun": (409, "The licence has not begun"),
    "licence_full": (409, "The licence has too many documents"),
    "licence_policy_not_allowed": (422, "The licence policy is not sold here"),
    "revocations_too_many": (503, "The revocation list is too long"),
    # Transfers and renewals
    "transfer_not_found": (404, "No such transfer"),
    "transfer_open": (409, "The licence is offered to somebody"),
    "transfer_closed": (409, "The transfer has ended"),
    "reissue_not_needed": (409, "The licence's key is not compromised"),
    "transfers_many": (429, "Too many transfers in a day"),
    "transfers_forbidden": (403, "Transfers are not allowed"),
    "transfer_to_self": (422, "The licence is yours"),
    "renewal_not_timed": (422, "A licence without end needs no renewal"),
    "renewal_mismatch": (422, "The licences do not belong together"),
    "renewal_too_late": (409, "The licence has ended before"),
    "renewal_too_far": (409, "The renewal would begin too far ahead"),
    "renewal_done": (409, "The licence renews another one already"),
    # Activations
    "activations_full": (409, "All seats are in use"),
    "activation_ended": (409, "The activation has ended"),
    "activation_invalid": (422, "No activation of ours"),
    # Ownership
    "owner_key_missing": (409, "The owner has registered no key"),
    "proof_invalid": (422, "The proof is malformed"),
    "proof_refused": (403, "The proof is not the owner's"),
    "nonce_unknown": (404, "No such challenge"),
    "nonce_expired": (409, "The challenge is too old"),
    "nonce_replayed": (409, "The challenge was answered before"),
    # Operators
    "dead_letter_not_found": (404, "No such dead letter"),
    "dead_letter_gone": (409, "The work is not dead any more"),
    "case_not_found": (404, "No such case"),
    "case_closed": (409, "The case is closed"),
    "case_not_applicable": (409, "The case has no fix that can be made"),
    # Proposals
    "proposal_not_found": (404, "No such proposal"),
    "governed_kind_not_found": (404, "No such governed document"),
    "operators_missing": (409, "There are no operators' keys yet"),
    "proposal_base_stale": (409, "The document has changed"),
    "proposal_id_taken": (409, "The proposal's id is taken"),
    "proposals_full": (409, "Too many open proposals"),
    "approval_duplicate": (409, "The key has decided already"),
    "proposal_applied": (409, "The proposal is applied"),
    "proposal_rejected": (409, "The proposal is rejected"),
    "proposal_withdrawn": (409, "The proposal is withdrawn"),
    "proposal_stale": (409, "The proposal is stale"),
    "proposal_expired": (409, "The proposal has expired"),
    "proposal_kind_unknown": (422, "No such governed document"),
    "proposal_document_invalid": (422, "The governed document is not sound"),
    "proposal_document_unchanged": (422, "The document is current already"),
    "proposal_id_invalid": (422, "The proposal's id is malformed"),
    "proposal_expiry_invalid": (422, "The expiry is out of range"),
    "proposal_envelope_invalid": (422, "The envelope is malformed"),
    "proposal_statement_mismatch": (422, "Another statement was signed"),
    "approval_key_unknown": (422, "The key is no operator's"),
    "approval_signature_invalid": (422, "The signature is not valid"),
    "approval_own_proposal": (422, "The proposer's key does not count"),
    "withdrawal_not_proposer": (422, "Only the proposer withdraws"),
    # Payouts
    "payee_not_found": (404, "No such payee"),
    "payout_batch_not_found": (404, "No such batch of payouts"),
    "payout_not_found": (404, "No such payout"),
    "payout_period_open": (409, "The period is not over"),
    "payout_batch_exists": (409, "The period has a batch"),
    "payout_nothing_due": (409, "Nobody has a balance"),
    "payout_batch_too_large": (409, "Too many payees for a batch"),
    "payout_batch_drafted": (409, "The batch is not approved"),
    "payout_batch_approved": (409, "The batch is approved"),
    "payout_batch_withdrawn": (409, "The batch is withdrawn"),
    "payee_id_invalid": (422, "The payee's id is malformed"),
    "payee_account_unknown": (422, "Stripe knows no such account of ours"),
    "payout_period_invalid": (422, "The period is malformed"),
    "payout_own_batch": (422, "The drafter does not approve"),
    "payout_statement_too_large": (422, "The statement is too large"),
    # Ours
    "internal_error": (500, "An unexpected error"),
    "unwrap_refused": (500, "A stored key cannot be opened"),
    "database_unavailable": (503, "The database is unavailable"),
    "finance_unavailable": (503, "Finance is unavailable"),
    "finance_misconfigured": (503, "Finance does not let us in"),
    "payment_provider_unavailable": (503, "Stripe is unavailable"),
    "storage_unavailable": (503, "Object storage is unavailable"),
    "storage_unversioned": (503, "Object storage keeps no versions"),
    "storage_busy": (503, "Object storage is busy"),
    "ingress_unavailable": (503, "No replica answers"),
    "order_host_unavailable": (503, "The order's host is being replaced"),
    "order_host_busy": (429, "The order hosts are busy"),
    "joiner_busy": (503, "Other deliveries are being put together"),
    "signer_unavailable": (503, "The signer is away"),
    "signer_refused": (503, "The signing backend needs its operators"),
    "signature_wrong": (503, "The signing backend made a wrong signature"),
    "signer_busy": (503, "The signer is busy"),
    "host_full": (429, "The order hosts are busy"),
    "queue_full": (429, "A part is busy"),
    "mailbox_full": (429, "The order is busy"),
    "mailbox_timeout": (429, "The order is busy"),
    "order_unreadable": (503, "A newer build has moved the order"),
    "webhook_dropped": (409, "An operator has dropped this webhook"),
    "order_contended": (503, "The order is changing"),
    "publication_running": (503, "The bundle is being encrypted"),
    "publisher_busy": (503, "The publisher is busy"),
    "streams_full": (503, "Too many progress streams"),
    "deadline_exceeded": (503, "The request took too long"),
}

# For codes of parts that are not meant to reach callers; by whose fault it is.
_BY_CLASS: tuple[tuple[type[MarketplaceError], int, str], ...] = (
    (RejectedError, 422, "The request is refused"),
    (NotFoundError, 404, "No such thing"),
    (ConflictError, 409, "The state has moved on"),
    (BusyError, 503, "A part is busy"),
    (DependencyError, 503, "A part is unavailable"),
)
_UNAUTHENTICATED = 401
_IN_PROGRESS_RETRY_AFTER_S = 1


class FieldsInvalidError(RejectedError):
    """A body or query breaks its schema: ``errors`` are (JSON pointer or name, what is wrong)."""

    def __init__(self, code: str, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(code, detail, errors)
        self.errors = errors


def status_and_title(error: MarketplaceError) -> tuple[int, str]:
    """Return the HTTP status and title of an expected error."""
    if error.code in TABLE:
        return TABLE[error.code]
    return next(
        ((status, title) for kind, status, title in _BY_CLASS if isinstance(error, kind)),
        TABLE["internal_error"],
    )


def document(error: MarketplaceError, request_id: str) -> dict[str, Any]:
    """Return the problem document of an expected error."""
    status, title = status_and_title(error)
    problem: dict[str, Any] = {
        "type": f"urn:illuvrse:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "instance": request_id,
    }
    if isinstance(error, FieldsInvalidError) and error.errors:
        problem["errors"] = [
            {"pointer": pointer, "detail": detail} for pointer, detail in error.errors[:FIELD_ERRORS_MAX]
        ]
    return problem


def response(error: MarketplaceError, request_id: str) -> Response:
    """Return the HTTP answer of an expected error, with ``Retry-After`` where repeating helps."""
    body = document(error, request_id)
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if isinstance(error, BusyError | DependencyError):
        headers["Retry-After"] = str(max(1, error.retry_after_s))
    elif error.code == "idempotency_in_progress":
        headers["Retry-After"] = str(_IN_PROGRESS_RETRY_AFTER_S)
    if body["status"] == _UNAUTHENTICATED:
        reason = ', error="invalid_token"' if error.code == "token_invalid" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="marketplace"{reason}'
    return Response(orjson.dumps(body), body["status"], headers, PROBLEM_JSON)
