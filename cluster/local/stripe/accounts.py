"""Connected accounts: whom transfers go to. Made ready to be paid, until a control says otherwise.

Nothing of their own business is kept.

Follows https://docs.stripe.com/api/accounts.
"""

from cluster.local.stripe import connect_documents
from cluster.local.stripe.kinds import ACCOUNT as KIND
from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    boolean,
    choice,
    currency,
    merged_metadata,
    metadata,
    text,
)
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.turn import Turn

_REQUESTED: Specification = {"requested": boolean}
CREATE: Specification = {
    "type": choice("custom", "express", "standard"),
    "country": text,
    "email": text,
    "default_currency": currency,
    "business_type": choice("company", "government_entity", "individual", "non_profit"),
    "capabilities": {"card_payments": _REQUESTED, "transfers": _REQUESTED},
    "metadata": metadata,
    **EXPAND,
}
UPDATE: Specification = {"email": text, "metadata": metadata, **EXPAND}
RESTRICT: Specification = {
    "payouts_enabled": boolean,
    "transfers": choice("active", "inactive", "pending"),
}


def create(turn: Turn, _object_id: str, values: Values) -> bytes:
    """Make a connected account that can be paid at once."""
    account = connect_documents.account(turn.new_id("acct"), turn.now, values)
    turn.put(KIND, account)
    return turn.changed[account["id"]].body


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a connected account.

    Raises:
        RefusedError: 403, which is what Stripe says of accounts that are not yours.
    """
    account = turn.find(KIND, object_id)
    if account is None:
        raise RefusedError(
            403,
            f"The provided key does not have access to account '{object_id[:80]}' (or that account does not "
            "exist). Application access may have been revoked.",
            code="account_invalid",
            executed=True,
        )
    return account


def update(turn: Turn, object_id: str, values: Values) -> bytes:
    """Change an account's email or metadata.

    Raises:
        RefusedError: 403 for an account that does not exist.
    """
    account = retrieve(turn, object_id, values)
    if "email" in values:
        account["email"] = values["email"]
    if "metadata" in values:
        account["metadata"] = merged_metadata(account["metadata"], values["metadata"])
    turn.put(KIND, account)
    turn.announce("account.updated", object_id, account=object_id)
    return turn.changed[object_id].body


def restrict(turn: Turn, object_id: str, values: Values) -> Document:
    """Have Stripe allow or forbid an account payouts and transfers, as its requirements would.

    Raises:
        RefusedError: 403 for an account that does not exist.
    """
    account = retrieve(turn, object_id, values)
    previous: Document = {}
    if "payouts_enabled" in values:
        previous["payouts_enabled"] = account["payouts_enabled"]
        account["payouts_enabled"] = values["payouts_enabled"]
    if "transfers" in values:
        previous["capabilities"] = {"transfers": account["capabilities"]["transfers"]}
        account["capabilities"]["transfers"] = values["transfers"]
    turn.put(KIND, account)
    turn.announce("account.updated", object_id, previous, account=object_id)
    return account
