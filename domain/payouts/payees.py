"""Whom we pay: sellers, and the other parties of royalty splits, each with one connected account at Stripe.

Whether an account can be paid is Stripe's to say: ``transfers`` is the state of that capability, and without
``payouts_enabled`` money sent there would not reach a bank. The account's owner is not ours to judge.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard

from domain.payouts.refusals import refusal

ACTIVE = "active"
NO_ACCOUNT, NOT_READY = "no_account", "account_not_ready"
_PAYEE = re.compile(r"[A-Za-z0-9_]{1,100}")  # it is a part of an account's name at Finance
_ACCOUNT = re.compile(r"acct_[A-Za-z0-9_]{1,100}")


@dataclass(frozen=True, slots=True)
class AccountState:
    """What Stripe says of a connected account."""

    transfers: str
    payouts_enabled: bool

    @property
    def ready(self) -> bool:
        """Whether it can be paid."""
        return self.transfers == ACTIVE and self.payouts_enabled


@dataclass(frozen=True, slots=True)
class Payee:
    """A payee, its account since ``named_at``, and what Stripe said of that at ``checked_at``."""

    payee_id: str
    account_id: str
    state: AccountState
    named_by: str
    named_at: datetime
    checked_at: datetime


def require_payee_id(text: str) -> str:
    """Return a well-formed payee's id; raises RejectedError ``payee_id_invalid``."""
    if _PAYEE.fullmatch(text) is None:
        raise refusal("payee_id_invalid")
    return text


def is_account_id(value: object) -> TypeGuard[str]:
    """Whether it is formed as an account's id."""
    return isinstance(value, str) and _ACCOUNT.fullmatch(value) is not None


def require_account_id(text: str) -> str:
    """Return a well-formed account's id; raises RejectedError ``payee_account_unknown``."""
    if not is_account_id(text):
        raise refusal("payee_account_unknown")
    return text


def obstacle(payee: Payee | None) -> str | None:
    """Return why a payee cannot be paid, or None."""
    if payee is None:
        return NO_ACCOUNT
    return None if payee.state.ready else NOT_READY
