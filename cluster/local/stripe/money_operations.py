"""The routes of what moves money after a payment: balance, disputes, connected accounts and transfers."""

from cluster.local.stripe import accounts, balance_transactions, disputes, documents, lists, transfers
from cluster.local.stripe.balance import Balances
from cluster.local.stripe.kinds import (
    ACCOUNT,
    BALANCE_TRANSACTION,
    CHARGE,
    DISPUTE,
    TRANSFER,
    TRANSFER_REVERSAL,
    is_kind,
)
from cluster.local.stripe.parameters import EXPAND, PAGE, Values
from cluster.local.stripe.refusals import Document, not_found
from cluster.local.stripe.routing import Operation, Route
from cluster.local.stripe.transfers import Transfers
from cluster.local.stripe.turn import Turn

TRANSACTIONS = "/v1/balance_transactions"


def routes(balances: Balances) -> dict[Route, Operation]:
    """Return the table of these routes."""
    decided = Transfers(balances)
    return {
        ("GET", "balance", 0, ""): Operation(balances.retrieve, EXPAND),
        ("GET", "balance_transactions", 0, ""): Operation(_list_transactions, balance_transactions.LIST),
        ("GET", "balance_transactions", 1, ""): Operation(_retrieve_transaction, EXPAND),
        ("GET", "disputes", 0, ""): Operation(_list_disputes, disputes.LIST),
        ("GET", "disputes", 1, ""): Operation(disputes.retrieve, EXPAND),
        ("POST", "disputes", 1, ""): Operation(disputes.update, disputes.UPDATE),
        ("POST", "disputes", 2, "close"): Operation(disputes.close, EXPAND),
        ("POST", "accounts", 0, ""): Operation(accounts.create, accounts.CREATE),
        ("GET", "accounts", 0, ""): Operation(_list_accounts, PAGE),
        ("GET", "accounts", 1, ""): Operation(accounts.retrieve, EXPAND),
        ("POST", "accounts", 1, ""): Operation(accounts.update, accounts.UPDATE),
        ("POST", "transfers", 0, ""): Operation(
            decided.create, transfers.CREATE, ("amount", "currency", "destination")
        ),
        ("GET", "transfers", 0, ""): Operation(_list_transfers, transfers.LIST),
        ("GET", "transfers", 1, ""): Operation(transfers.retrieve, EXPAND),
        ("POST", "transfers", 1, ""): Operation(transfers.update, transfers.UPDATE),
        ("POST", "transfers", 2, "reversals"): Operation(transfers.reverse, transfers.REVERSE),
        ("GET", "transfers", 2, "reversals"): Operation(_list_reversals, PAGE),
        ("GET", "transfers", 3, "reversals"): Operation(transfers.retrieve_reversal, EXPAND),
    }


def _list_transactions(turn: Turn, _object_id: str, values: Values) -> Document:
    if "payout" in values:
        raise not_found("payout", values["payout"], "payout")  # the simulator pays nothing out
    source = values.get("source")
    if source is not None and is_kind(CHARGE, source):
        return _transactions_of_charge(turn, source, values)
    topics = (values["type"],) if "type" in values else None
    return lists.page(
        turn,
        BALANCE_TRANSACTION,
        TRANSACTIONS,
        values,
        parent=source,
        topics=topics,
        shown=lambda transaction: balance_transactions.shown(transaction, turn.now),
    )


def _transactions_of_charge(turn: Turn, charge_id: str, values: Values) -> Document:
    """A charge has one transaction at most, and names it."""
    charge = turn.require(CHARGE, charge_id, CHARGE, "source")
    if charge["balance_transaction"] is None or values.get("type", "charge") != "charge":
        return lists.empty(TRANSACTIONS)
    found = _retrieve_transaction(turn, charge["balance_transaction"], values)
    return documents.page(TRANSACTIONS, [found], has_more=False)


def _retrieve_transaction(turn: Turn, object_id: str, _values: Values) -> Document:
    found = turn.require(BALANCE_TRANSACTION, object_id, balance_transactions.NOUN, "id")
    return balance_transactions.shown(found, turn.now)


def _list_disputes(turn: Turn, _object_id: str, values: Values) -> Document:
    parent = values.get("payment_intent")
    if "charge" in values:
        # An intent has one successful charge at most, and only that one has disputes.
        charge = turn.require(CHARGE, values["charge"], CHARGE, "charge")
        if charge["status"] != "succeeded" or parent not in {None, charge["payment_intent"]}:
            return lists.empty("/v1/disputes")
        parent = charge["payment_intent"]
    return lists.page(turn, DISPUTE, "/v1/disputes", values, parent=parent)


def _list_accounts(turn: Turn, _object_id: str, values: Values) -> Document:
    return lists.page(turn, ACCOUNT, "/v1/accounts", values)


def _list_transfers(turn: Turn, _object_id: str, values: Values) -> Document:
    topics = (values["destination"],) if "destination" in values else None
    return lists.page(
        turn, TRANSFER, "/v1/transfers", values, parent=values.get("transfer_group"), topics=topics
    )


def _list_reversals(turn: Turn, object_id: str, values: Values) -> Document:
    transfers.retrieve(turn, object_id, values)
    url = f"/v1/transfers/{object_id}/reversals"
    return lists.page(turn, TRANSFER_REVERSAL, url, values, parent=object_id)
