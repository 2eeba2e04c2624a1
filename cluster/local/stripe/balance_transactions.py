"""Balance transactions: one for everything that moves the balance, made in the same turn as what moved it.

A charge, refund, failed refund, dispute, won dispute, transfer and transfer reversal make one each; its
``amount`` less its ``fee`` is its ``net``, and the nets of all sum to the balance. A dispute's fee is the
``fee`` of the dispute's own transactions, as at Stripe; it is below zero where it is given back, which a dial
has done with a won dispute. A control changes it by a transaction of its own.
Money comes in pending, at the start of a later day (UTC); what goes out or comes back is available at once.
Never changed once made: ``status`` is told from ``available_on`` when it is shown. Follows
https://docs.stripe.com/api/balance_transactions and https://docs.stripe.com/reports/reporting-categories.
"""

from cluster.local.stripe.dials import DAY_S
from cluster.local.stripe.kinds import BALANCE_TRANSACTION as KIND
from cluster.local.stripe.parameters import PAGE, Specification, currency, text
from cluster.local.stripe.refusals import Document
from cluster.local.stripe.turn import Turn

NOUN = "balance transaction"
PENDING = "pending"
LIST: Specification = {**PAGE, "type": text, "source": text, "currency": currency, "payout": text}
CHARGE_FEE = "Stripe processing fees"
DISPUTE_FEE = "Dispute fee"


def of_charge(turn: Turn, charge: Document, amount_minor: int, *, at_once: bool) -> str:
    """Book what was captured of a charge, less Stripe's fee; return the transaction's id."""
    available_on = turn.now
    if turn.dials.pending_days and not at_once:
        available_on = (turn.now // DAY_S + turn.dials.pending_days) * DAY_S
    booked = _book(
        turn,
        charge["id"],
        amount_minor,
        charge["currency"],
        ("charge", "charge", charge["description"]),
        fee=(turn.dials.fee_minor(amount_minor), CHARGE_FEE),
        available_on=available_on,
    )
    return str(booked["id"])


def of_refund(turn: Turn, refund: Document, charge: Document) -> str:
    """Book the money that a refund takes; return the transaction's id."""
    described = f"REFUND FOR CHARGE ({charge['description']})" if charge["description"] else None
    booked = _book(turn, refund["id"], -refund["amount"], refund["currency"], ("refund", "refund", described))
    return str(booked["id"])


def of_failed_refund(turn: Turn, refund: Document) -> str:
    """Book the money that comes back when a refund fails; return the transaction's id."""
    kinds = "refund_failure", "refund_failure", "REFUND FAILURE"
    return str(_book(turn, refund["id"], refund["amount"], refund["currency"], kinds)["id"])


def of_dispute(turn: Turn, dispute: Document) -> Document:
    """Book the withdrawal of a dispute's amount and its fee; return the transaction."""
    return _book(
        turn,
        dispute["id"],
        -dispute["amount"],
        dispute["currency"],
        ("adjustment", "dispute", f"Chargeback withdrawal for {dispute['charge']}"),
        fee=(turn.dials.dispute_fee_minor, DISPUTE_FEE),
    )


def of_won_dispute(turn: Turn, dispute: Document) -> Document:
    """Book the return of a dispute's amount, with its fees where a dial says so; return the transaction."""
    kinds = "adjustment", "dispute_reversal", f"Chargeback reversal for {dispute['charge']}"
    taken = sum(booked["fee"] for booked in dispute["balance_transactions"])
    back = (-taken, DISPUTE_FEE) if turn.dials.dispute_fee_returned and taken > 0 else None
    return _book(turn, dispute["id"], dispute["amount"], dispute["currency"], kinds, fee=back)


def of_dispute_fee(turn: Turn, dispute: Document, fee_minor: int) -> Document:
    """Book a fee of a dispute by itself, below zero when it is given back; return the transaction."""
    kinds = "adjustment", "fee", f"Dispute fee for {dispute['charge']}"
    return _book(turn, dispute["id"], 0, dispute["currency"], kinds, fee=(fee_minor, DISPUTE_FEE))


def of_transfer(turn: Turn, transfer: Document) -> str:
    """Book a transfer to a connected account; return the transaction's id."""
    kinds = "transfer", "transfer", transfer["description"]
    return str(_book(turn, transfer["id"], -transfer["amount"], transfer["currency"], kinds)["id"])


def of_reversal(turn: Turn, reversal: Document) -> str:
    """Book what a transfer reversal brings back; return the transaction's id."""
    kinds = "transfer_refund", "transfer_reversal", f"REVERSAL FOR {reversal['transfer']}"
    return str(_book(turn, reversal["id"], reversal["amount"], reversal["currency"], kinds)["id"])


def shown(transaction: Document, now: int) -> Document:
    """Return a stored transaction with its status at ``now`` (Unix seconds)."""
    if transaction["status"] == PENDING and transaction["available_on"] <= now:
        transaction["status"] = "available"
    return transaction


def _book(
    turn: Turn,
    source: str,
    amount_minor: int,
    currency_code: str,
    kinds: tuple[str, str, str | None],
    *,
    fee: tuple[int, str] | None = None,
    available_on: int | None = None,
) -> Document:
    """Store a transaction. ``kinds`` are its type, reporting category and description."""
    available = turn.now if available_on is None else available_on
    fee_minor = fee[0] if fee is not None else 0
    booked: Document = {
        "id": turn.new_id("txn"),
        "object": KIND,
        "amount": amount_minor,
        "available_on": available,
        "balance_type": "payments",
        "created": turn.now,
        "currency": currency_code,
        "description": kinds[2],
        "exchange_rate": None,
        "fee": fee_minor,
        "fee_details": [],
        "net": amount_minor - fee_minor,
        "reporting_category": kinds[1],
        "source": source,
        "status": PENDING if available > turn.now else "available",
        "type": kinds[0],
    }
    if fee is not None and fee_minor:
        booked["fee_details"].append(
            {
                "amount": fee_minor,
                "application": None,
                "currency": currency_code,
                "description": fee[1],
                "type": "stripe_fee",
            }
        )
    # A charge names its one transaction; the others are looked for by their source.
    parent = None if kinds[0] == "charge" else source
    turn.put(KIND, booked, parent=parent, topic=kinds[0])
    return booked
