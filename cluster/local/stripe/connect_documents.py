"""The shape of connected accounts, transfers and their reversals, as Stripe's API of 2026-10-28 documents it.

An account is born with all that it needs to be paid: onboarding is not simulated.
"""

from collections.abc import Sequence

from cluster.local.stripe import kinds
from cluster.local.stripe.refusals import Document

REVERSALS_SHOWN_MAX = 10  # in a transfer; the list has all


def account(account_id: str, created: int, values: Document) -> Document:
    """A connected account that can be paid at once; ``values`` are the parameters of its creation."""
    requested = {name for name, wish in values.get("capabilities", {}).items() if wish.get("requested")}
    return {
        "id": account_id,
        "object": kinds.ACCOUNT,
        "business_profile": None,
        "business_type": values.get("business_type"),
        "capabilities": dict.fromkeys(sorted(requested | {"transfers"}), "active"),
        "charges_enabled": True,
        "country": values.get("country", "US"),
        "created": created,
        "default_currency": values.get("default_currency", "usd"),
        "details_submitted": True,
        "email": values.get("email"),
        "external_accounts": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/accounts/{account_id}/external_accounts",
        },
        "metadata": values.get("metadata", {}),
        "payouts_enabled": True,
        "requirements": {
            "alternatives": [],
            "current_deadline": None,
            "currently_due": [],
            "disabled_reason": None,
            "errors": [],
            "eventually_due": [],
            "past_due": [],
            "pending_verification": [],
        },
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
        "type": values.get("type", "custom"),
    }


def transfer(transfer_id: str, created: int, values: Document) -> Document:
    """A transfer of the platform's money to a connected account."""
    return {
        "id": transfer_id,
        "object": kinds.TRANSFER,
        "amount": values["amount"],
        "amount_reversed": 0,
        "balance_transaction": None,
        "created": created,
        "currency": values["currency"],
        "description": values.get("description"),
        "destination": values["destination"],
        "destination_payment": None,
        "livemode": False,
        "metadata": values.get("metadata", {}),
        "reversals": reversals_page(transfer_id, []),
        "reversed": False,
        "source_transaction": values.get("source_transaction"),
        "source_type": "card",
        "transfer_group": values.get("transfer_group"),
    }


def reversal(reversal_id: str, created: int, reversed_transfer: Document, amount_minor: int) -> Document:
    """The return of ``amount_minor`` of a transfer."""
    return {
        "id": reversal_id,
        "object": kinds.TRANSFER_REVERSAL,
        "amount": amount_minor,
        "balance_transaction": None,
        "created": created,
        "currency": reversed_transfer["currency"],
        "destination_payment_refund": None,
        "metadata": {},
        "source_refund": None,
        "transfer": reversed_transfer["id"],
    }


def reversals_page(transfer_id: str, newest_first: Sequence[Document]) -> Document:
    """A transfer's own list of its reversals."""
    return {
        "object": "list",
        "data": list(newest_first[:REVERSALS_SHOWN_MAX]),
        "has_more": len(newest_first) > REVERSALS_SHOWN_MAX,
        "url": f"/v1/transfers/{transfer_id}/reversals",
    }
