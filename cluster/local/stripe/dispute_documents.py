"""The shape of a Dispute at birth, as Stripe's API of 2026-10-28 documents it.

Evidence is text here: the simulator has no file uploads, so the fields that hold files stay empty.
"""

from cluster.local.stripe.kinds import DISPUTE
from cluster.local.stripe.refusals import Document

REASONS = (
    *("bank_cannot_process", "check_returned", "credit_not_processed", "customer_initiated"),
    *("debit_not_authorized", "duplicate", "fraudulent", "general", "incorrect_account_details"),
    *("insufficient_funds", "noncompliant", "product_not_received", "product_unacceptable"),
    *("subscription_canceled", "unrecognized"),
)
# Visa's codes for the reasons that it has.
NETWORK_CODES = {
    "credit_not_processed": "13.6",
    "duplicate": "12.6.1",
    "fraudulent": "10.4",
    "product_not_received": "13.1",
    "product_unacceptable": "13.3",
    "subscription_canceled": "13.2",
}
EVIDENCE_TEXTS = (
    *("access_activity_log", "billing_address", "cancellation_policy_disclosure", "cancellation_rebuttal"),
    *("customer_email_address", "customer_name", "customer_purchase_ip", "duplicate_charge_explanation"),
    *("duplicate_charge_id", "product_description", "refund_policy_disclosure"),
    *("refund_refusal_explanation", "service_date", "shipping_address", "shipping_carrier"),
    *("shipping_date", "shipping_tracking_number", "uncategorized_text"),
)
EVIDENCE_FILES = (
    *("cancellation_policy", "customer_communication", "customer_signature"),
    *("duplicate_charge_documentation", "receipt", "refund_policy", "service_documentation"),
    *("shipping_documentation", "uncategorized_file"),
)


def dispute(
    dispute_id: str, created: int, charged: Document, amount_minor: int, reason: str, due_by: int
) -> Document:
    """A dispute of ``amount_minor`` of a Charge that needs a response by ``due_by``; no money has moved."""
    card = charged["payment_method_details"]["card"]
    code = NETWORK_CODES.get(reason) if card["network"] == "visa" else None
    return {
        "id": dispute_id,
        "object": DISPUTE,
        "amount": amount_minor,
        "balance_transaction": None,
        "balance_transactions": [],
        "charge": charged["id"],
        "created": created,
        "currency": charged["currency"],
        "enhanced_eligibility_types": [],
        "evidence": dict.fromkeys(sorted(EVIDENCE_TEXTS + EVIDENCE_FILES)) | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": due_by,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "intended_submission_method": None,
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "network_reason_code": code,
        "payment_intent": charged["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": card["brand"],
                "case_type": "chargeback",
                "network": card["network"],
                "network_reason_code": code,
            },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }
