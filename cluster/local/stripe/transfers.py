"""Transfers to connected accounts, and their reversals.

A transfer that names the charge it comes from never exceeds that charge, all such transfers together; it may
use the charge's money while that is pending. Others need an available balance only when a dial asks for real
balances, as a test account at Stripe would. Follows https://docs.stripe.com/api/transfers and
https://docs.stripe.com/connect/separate-charges-and-transfers.
"""

from cluster.local.stripe import balance_transactions, connect_documents
from cluster.local.stripe.balance import Balances
from cluster.local.stripe.kinds import (
    ACCOUNT,
    CHARGE,
    PREFIXES,
    TRANSFER,
    TRANSFER_REVERSAL,
    TRANSFER_SOURCE,
)
from cluster.local.stripe.parameters import (
    EXPAND,
    PAGE,
    Specification,
    Values,
    amount,
    choice,
    currency,
    merged_metadata,
    metadata,
    text,
)
from cluster.local.stripe.refusals import Document, RefusedError, not_found, refused_amount
from cluster.local.stripe.turn import Turn
from domain.money import format_money

CREATE: Specification = {
    "amount": amount,
    "currency": currency,
    "destination": text,
    "description": text,
    "metadata": metadata,
    "source_transaction": text,
    "source_type": choice("card"),
    "transfer_group": text,
    **EXPAND,
}
UPDATE: Specification = {"description": text, "metadata": metadata, **EXPAND}
REVERSE: Specification = {"amount": amount, "description": text, "metadata": metadata, **EXPAND}
LIST: Specification = {**PAGE, "transfer_group": text, "destination": text}


class Transfers:
    """The decisions, over the balance that transfers may have to fit into."""

    def __init__(self, balances: Balances) -> None:
        self._balances = balances

    def create(self, turn: Turn, _object_id: str, values: Values) -> bytes:
        """Send money to a connected account.

        Raises:
            RefusedError: 400 without such an account, charge or balance.
        """
        account = turn.find(ACCOUNT, values["destination"])
        if account is None:
            raise _missing("destination", values["destination"], "destination")
        if account["capabilities"]["transfers"] != "active":
            raise RefusedError(
                400,
                "Your destination account needs to have at least one of the following capabilities enabled: "
                "transfers, crypto_transfers, legacy_payments",
                code="insufficient_capabilities_for_transfer",
                executed=True,
            )
        charge_id = values.get("source_transaction")
        if charge_id is not None:
            values.setdefault("transfer_group", _take_from_charge(turn, charge_id, values))
        elif turn.dials.real_balances:
            available, _ = self._balances.at(turn.now).get(values["currency"], (0, 0))
            if values["amount"] > available:
                raise RefusedError(
                    400,
                    "You have insufficient available funds in your Stripe account. Try adding funds directly "
                    "to your available balance by creating Charges using the 4000000000000077 test card. "
                    "See: https://stripe.com/docs/testing#available-balance",
                    code="balance_insufficient",
                    executed=True,
                )
        transfer = connect_documents.transfer(turn.new_id("tr"), turn.now, values)
        transfer["balance_transaction"] = balance_transactions.of_transfer(turn, transfer)
        _put(turn, transfer)
        turn.announce("transfer.created", transfer["id"])
        return turn.changed[transfer["id"]].body


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a transfer.

    Raises:
        RefusedError: 404.
    """
    return turn.require(TRANSFER, object_id, TRANSFER, "transfer")


def update(turn: Turn, object_id: str, values: Values) -> bytes:
    """Change a transfer's description or metadata.

    Raises:
        RefusedError: 404.
    """
    transfer = retrieve(turn, object_id, values)
    if "description" in values:
        transfer["description"] = values["description"]
    if "metadata" in values:
        transfer["metadata"] = merged_metadata(transfer["metadata"], values["metadata"])
    _put(turn, transfer)
    turn.announce("transfer.updated", object_id)
    return turn.changed[object_id].body


def reverse(turn: Turn, object_id: str, values: Values) -> bytes:
    """Take back ``amount`` of a transfer, or what is left of it.

    Raises:
        RefusedError: 404, 400 when nothing or less than that is left.
    """
    transfer = retrieve(turn, object_id, values)
    left = transfer["amount"] - transfer["amount_reversed"]
    if left <= 0:
        raise RefusedError(400, f"Transfer {object_id} is already fully reversed.", executed=True)
    wanted = values.get("amount", left)
    if wanted > left:
        code = transfer["currency"].upper()
        raise refused_amount(
            f"Transfer reversal amount ({format_money(wanted, code)}) is greater than unreversed amount on "
            f"transfer ({format_money(left, code)})"
        )
    reversal = connect_documents.reversal(turn.new_id("trr"), turn.now, transfer, wanted)
    reversal["metadata"] = values.get("metadata", {})
    reversal["balance_transaction"] = balance_transactions.of_reversal(turn, reversal)
    turn.put(TRANSFER_REVERSAL, reversal, parent=object_id)
    previous = {"amount_reversed": transfer["amount_reversed"], "reversed": transfer["reversed"]}
    transfer["amount_reversed"] += wanted
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    newest_first = [reversal, *transfer["reversals"]["data"]]
    transfer["reversals"] = connect_documents.reversals_page(object_id, newest_first)
    _put(turn, transfer)
    turn.announce("transfer.reversed", object_id, previous)
    return turn.changed[reversal["id"]].body


def retrieve_reversal(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return the reversal of a path that names ``transfer/reversal``.

    Raises:
        RefusedError: 404.
    """
    transfer_id, _, reversal_id = object_id.partition("/")
    reversal = turn.require(TRANSFER_REVERSAL, reversal_id, "transfer reversal", "id")
    if reversal["transfer"] != transfer_id:
        raise not_found("transfer reversal", reversal_id)
    return reversal


def _take_from_charge(turn: Turn, charge_id: str, values: Values) -> str:
    """Count a transfer against the charge that it comes from; return the charge's transfer group."""
    charge = turn.find(CHARGE, charge_id)
    if charge is None:
        raise _missing("charge", charge_id, "source_transaction")
    if not charge["captured"] or charge["currency"] != values["currency"]:
        raise RefusedError(
            400,
            "The source_transaction must be a captured charge in the currency of the transfer.",
            param="source_transaction",
            executed=True,
        )
    # The sum is kept apart from the charge, which is shown as Stripe shows it.
    source_id = PREFIXES[TRANSFER_SOURCE] + charge_id
    taken = turn.find(TRANSFER_SOURCE, source_id) or {"id": source_id, "created": turn.now, "amount": 0}
    if taken["amount"] + values["amount"] > charge["amount_captured"]:
        code = charge["currency"].upper()
        message = (
            "Transfers using this transaction as a source must not exceed the source amount of "
            f"{format_money(charge['amount_captured'], code)}."
        )
        if taken["amount"]:
            message += (
                " (There is already a transfer using this source, amounting to "
                f"{format_money(taken['amount'], code)}.)"
            )
        raise refused_amount(message)
    taken["amount"] += values["amount"]
    turn.put(TRANSFER_SOURCE, taken)
    return str(charge["transfer_group"] or f"group_{charge['payment_intent']}")


def _put(turn: Turn, transfer: Document) -> None:
    turn.put(TRANSFER, transfer, parent=transfer["transfer_group"], topic=transfer["destination"])


def _missing(noun: str, object_id: str, param: str) -> RefusedError:
    """What a request names does not exist: 400, where a path would be 404."""
    missing = not_found(noun, object_id, param)
    missing.status = 400
    return missing
