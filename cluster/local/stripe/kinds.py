"""The kinds of objects that are stored, and the prefix of the ids of each.

What an id begins with tells its kind; an index of kinds would be one more to keep. No prefix begins with
another, so that an id is of one kind only.
"""

ACCOUNT = "account"
BALANCE_TRANSACTION = "balance_transaction"
CHARGE = "charge"
CHECKOUT_SESSION = "checkout.session"
DIALS = "simulator.dials"
DISPUTE = "dispute"
EVENT = "event"
PAYMENT_INTENT = "payment_intent"
PAYMENT_METHOD = "payment_method"
REFUND = "refund"
TRANSFER = "transfer"
TRANSFER_REVERSAL = "transfer_reversal"
TRANSFER_SOURCE = "simulator.transfer_source"
WEBHOOK_ENDPOINT = "webhook_endpoint"

PREFIXES = {
    ACCOUNT: "acct_",
    BALANCE_TRANSACTION: "txn_",
    CHARGE: "ch_",
    CHECKOUT_SESSION: "cs_",
    DIALS: "dials_",
    DISPUTE: "dp_",
    EVENT: "evt_",
    PAYMENT_INTENT: "pi_",
    PAYMENT_METHOD: "pm_",
    REFUND: "re_",
    TRANSFER: "tr_",
    TRANSFER_REVERSAL: "trr_",
    TRANSFER_SOURCE: "trs_",
    WEBHOOK_ENDPOINT: "we_",
}


def is_kind(kind: str, object_id: str) -> bool:
    """Whether an id is one of ``kind``."""
    return object_id.startswith(PREFIXES[kind])
