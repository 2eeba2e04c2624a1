"""Planted bugs in what goes back: the bound, the licences, and what Stripe is asked and tells."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from actors.orders import effects as effects_module
from actors.orders import host as host_module
from domain.orders import commands as c
from domain.orders import decide as decide_module
from domain.orders import returns
from domain.orders.events import LicencesRestored, LicencesRevoked
from storage.stripe_gateway import StripeGateway
from tests.simulation.planting import Patch, planted


@planted(0)
def refund_without_a_bound(patch: Patch) -> None:
    """What was returned before is not looked at."""

    def left(lines: Any, _returns: Any) -> Any:
        return {line.line_no: line.amount_minor for line in lines}

    patch.setattr(returns, "left_by_line", left)


@planted(0)
def revocation_forgotten(patch: Patch) -> None:
    """The money goes back, and the licence stays."""
    real = returns._concluded

    def concluded(*args: Any) -> Any:
        return [event for event in real(*args) if not isinstance(event, LicencesRevoked)]

    patch.setattr(returns, "_concluded", concluded)


@planted(19)
def fresh_key_per_refund_attempt(patch: Patch) -> None:
    """Each attempt at a refund names a new one, and nobody looks for the one before."""
    numbers = itertools.count()
    real = StripeGateway._post

    async def post(self: StripeGateway, path: str, params: Any, key: str) -> Any:
        return await real(self, path, params, f"{key}:{next(numbers)}" if path == "/v1/refunds" else key)

    async def find(_self: StripeGateway, _intent_id: str, _refund_id: str) -> None:
        return None

    patch.setattr(StripeGateway, "_post", post)
    patch.setattr(StripeGateway, "_find_refund", find)


@planted(1)
def dispute_ignored(patch: Patch) -> None:
    """News of disputes counts as known."""

    def decider(state: Any, command: Any) -> Any:
        return [] if isinstance(command, c.NoticeDispute) else decide_module.decide(state, command)

    patch.setattr(host_module, "decide", decider)


@planted(18)
def dispute_fee_given_back_unheard(patch: Patch) -> None:
    """Only what Stripe takes for a dispute is recorded."""
    real = returns.fees_to_record

    def fees(recorded: Any, told: Any) -> Any:
        return [one for one in real(recorded, told) if one[1] > 0]

    patch.setattr(returns, "fees_to_record", fees)


@planted(1)
def dispute_fee_booked_with_each_news(patch: Patch) -> None:
    """Whatever fee news of a dispute tells is booked again."""
    patch.setattr(returns, "fees_to_record", lambda _recorded, told: list(told))


@planted(122)
def restored_although_refunded(patch: Patch) -> None:
    """A dispute that is won gives every licence back, also those of lines that were refunded."""
    real = returns._concluded

    def concluded(state: Any, events: Any, at: Any, reason: str) -> Any:
        told = real(state, events, at, reason)
        if any(type(event).__name__ == "DisputeWon" for event in told):
            told = [event for event in told if not isinstance(event, LicencesRestored)]
            told.append(LicencesRestored(tuple(line.line_no for line in state.lines), at))
        return told

    patch.setattr(returns, "_concluded", concluded)


@planted(1)
def failed_refund_not_reversed(patch: Patch) -> None:
    """A refund fails after it was booked, and the books keep it."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        due, done = real(event)
        return [effect for effect in due if not effect.step.startswith("book:refund_reversal")], done

    patch.setattr(decide_module, "effects_after", effects)


@planted(48)
def dashboard_refund_taken_for_ours(patch: Patch) -> None:
    """A refund that was made by hand is taken for the answer to one that we asked for."""
    real = returns.notice_refund

    def notice(state: Any, command: Any) -> Any:
        asked = next((one for one in state.refunds if one.stripe_refund_id is None), None)
        if not command.refund_id and asked is not None:
            command = replace(
                command, refund_id=asked.refund_id, amount_minor=asked.amount_minor, currency=state.currency
            )
        return real(state, command)

    patch.setattr(returns, "notice_refund", notice)


@planted(6)
def licensed_whatever_was_returned(patch: Patch) -> None:
    """Fulfilment does not look at what went back before it."""
    patch.setattr(decide_module, "entitled_lines", lambda state: state.lines)
    patch.setattr(decide_module, "require_settled", lambda _state: None)
    assert effects_module.steps is decide_module
