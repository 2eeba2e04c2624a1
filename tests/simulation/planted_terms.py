"""Planted bugs in discount codes and free orders: what orders share, and orders without a payment."""

from __future__ import annotations

from typing import Any

from actors.orders import host as host_module
from cluster.simulation import postgres as postgres_module
from domain.errors import DependencyError
from domain.orders import decide as decide_module
from domain.orders import returns
from domain.orders.events import OrderExpired, OrderGranted, PaymentVoided
from tests.simulation.planting import Patch, planted


@planted(9)
def code_not_counted(patch: Patch) -> None:
    """The use is looked at before the order is placed, and not in its transaction: two take the last one."""
    patch.setattr(postgres_module.Postgres, "require_use", lambda _self, _order: None)


@planted(0)
def use_kept_by_an_order_that_has_ended(patch: Patch) -> None:
    """Nobody gives a code's use back."""
    patch.setattr(decide_module, "gives_discount_back", lambda _events: False)


@planted(0)
def use_given_back_while_the_payment_may_win(patch: Patch) -> None:
    """An order that expires gives its use back at once; the buyer is paying meanwhile."""

    def gives(events: Any) -> bool:
        return any(isinstance(event, OrderExpired | PaymentVoided) for event in events)

    patch.setattr(decide_module, "gives_discount_back", gives)


@planted(0)
def free_order_waits_for_a_payment(patch: Patch) -> None:
    """An order that costs nothing is taken to Stripe like any other."""
    real = decide_module._place

    def place(command: Any) -> Any:
        return [event for event in real(command) if not isinstance(event, OrderGranted)]

    patch.setattr(decide_module, "_place", place)


@planted(0)
def free_order_is_booked(patch: Patch) -> None:
    """Finance is told of a sale of nothing before it is fulfilled."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        due, done = real(event)
        return (
            ([decide_module.Effect(decide_module.BOOK)], done)
            if isinstance(event, OrderGranted)
            else (due, done)
        )

    patch.setattr(decide_module, "effects_after", effects)


@planted(0)
def free_order_never_fulfilled(patch: Patch) -> None:
    """Nothing is due after an order was granted: only a payment starts anything."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        return ([], real(event)[1]) if isinstance(event, OrderGranted) else real(event)

    patch.setattr(decide_module, "effects_after", effects)


@planted(35)
def news_of_a_free_order_deferred_for_ever(patch: Patch) -> None:
    """A refund that names a free order waits for the payment to be recorded, which there is none of."""
    real = returns._concerns

    def concerns(state: Any, payment_intent_id: str) -> bool:
        if state.total_minor == 0:
            raise DependencyError("payment_not_recorded", "The payment is not recorded yet.", 1)
        return real(state, payment_intent_id)

    patch.setattr(returns, "_concerns", concerns)


@planted(35)
def payment_takes_a_free_order(patch: Patch) -> None:
    """Whoever charges a free order by hand has paid it: the amount is not compared."""
    real = host_module.decide

    def decider(state: Any, command: Any) -> Any:
        if type(command).__name__ == "ConfirmPayment" and state is not None and not state.total_minor:
            return []
        return real(state, command)

    patch.setattr(host_module, "decide", decider)
