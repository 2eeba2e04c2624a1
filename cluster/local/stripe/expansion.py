"""``expand``: replaces ids in an answer by the objects that they name.

A path that names nothing expandable is ignored, so that code written for more of Stripe still runs.
Follows https://docs.stripe.com/api/expanding_objects.
"""

from collections.abc import Sequence

from cluster.local.stripe import balance_transactions, kinds
from cluster.local.stripe.refusals import Document, invalid
from cluster.local.stripe.turn import Turn

PATHS_MAX = 20
DEPTH_MAX = 4  # Stripe's limit
_KINDS = {
    "balance_transaction": kinds.BALANCE_TRANSACTION,
    "charge": kinds.CHARGE,
    "destination": kinds.ACCOUNT,
    "failure_balance_transaction": kinds.BALANCE_TRANSACTION,
    "latest_charge": kinds.CHARGE,
    "payment_intent": kinds.PAYMENT_INTENT,
    "payment_method": kinds.PAYMENT_METHOD,
    "source_transaction": kinds.CHARGE,
    "transfer": kinds.TRANSFER,
}
# What a balance transaction may come from.
_SOURCES = (kinds.CHARGE, kinds.REFUND, kinds.DISPUTE, kinds.TRANSFER, kinds.TRANSFER_REVERSAL)


def expand(turn: Turn, document: Document, paths: Sequence[str]) -> None:
    """Expand ``document`` in place.

    Raises:
        RefusedError: 400 for more or deeper paths than Stripe takes.
    """
    if len(paths) > PATHS_MAX or any(path.count(".") > DEPTH_MAX for path in paths):
        raise invalid(f"At most {PATHS_MAX} paths of {DEPTH_MAX} levels can be expanded.", "expand")
    for path in paths:
        _expand(turn, document, path.split("."))


def _expand(turn: Turn, document: Document, path: list[str]) -> None:
    name, rest = path[0], path[1:]
    value = document.get(name)
    if isinstance(value, list):
        for member in value:
            if isinstance(member, dict) and rest:
                _expand(turn, member, rest)
        return
    if isinstance(value, str):
        found = _named(turn, document, name, value)
        if found is not None:
            document[name] = value = found
    if isinstance(value, dict) and rest:
        _expand(turn, value, rest)


def _named(turn: Turn, document: Document, name: str, object_id: str) -> Document | None:
    kind = _KINDS.get(name)
    if name == "source" and document.get("object") == kinds.BALANCE_TRANSACTION:
        kind = next((source for source in _SOURCES if kinds.is_kind(source, object_id)), None)
    found = turn.find(kind, object_id) if kind is not None else None
    if found is not None and kind == kinds.BALANCE_TRANSACTION:
        return balance_transactions.shown(found, turn.now)
    return found
