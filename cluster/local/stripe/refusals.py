"""Refusals: every answer that is not a success, in Stripe's error envelope.

A refusal says whether execution had begun: only then is it kept for the request's idempotency key, as
Stripe does. A decline is the one refusal that also changes state (the failed charge is recorded).
Messages name parameters, never their values: a value may be a card number.
Follows https://docs.stripe.com/api/errors and https://docs.stripe.com/error-codes.
"""

from typing import Any

import orjson

from domain.money import smallest_step

Document = dict[str, Any]

DOC_URL = "https://docs.stripe.com/error-codes/"


class RefusedError(Exception):
    """An answer with an error envelope.

    ``executed`` tells that the parameters were fine and the decision was made, so that the answer is
    final for its idempotency key. ``keeps_changes`` tells that what the turn changed is to be stored.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        executed: bool = False,
        keeps_changes: bool = False,
        details: Document | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.executed = executed
        self.keeps_changes = keeps_changes
        self.details = details or {}

    def body(self) -> bytes:
        """Return Stripe's error envelope as JSON."""
        error: Document = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = DOC_URL + self.code.replace("_", "-")
        if self.param is not None:
            error["param"] = self.param
        return orjson.dumps({"error": error | self.details})


def invalid(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    """A request that is wrong as written: 400, not kept for its idempotency key."""
    return RefusedError(400, message, code=code, param=param)


def unknown_parameter(param: str) -> RefusedError:
    """A parameter that this operation does not take."""
    return invalid(f"Received unknown parameter: {param}", param, "parameter_unknown")


def missing_parameter(param: str) -> RefusedError:
    """A required parameter that is not there."""
    return invalid(f"Missing required param: {param}.", param, "parameter_missing")


def not_found(noun: str, object_id: str, param: str = "id") -> RefusedError:
    """An object that does not exist: 404 ``resource_missing``."""
    return RefusedError(
        404, f"No such {noun}: '{object_id[:80]}'", code="resource_missing", param=param, executed=True
    )


def unexpected_state(
    message: str, intent: Document | None = None, code: str = "payment_intent_unexpected_state"
) -> RefusedError:
    """An operation that the object's present state does not allow: 400."""
    details = {"payment_intent": intent} if intent is not None else {}
    return RefusedError(400, message, code=code, executed=True, details=details)


def refused_amount(message: str, code: str | None = None, param: str = "amount") -> RefusedError:
    """An amount that the object's present state does not allow: 400."""
    return RefusedError(400, message, code=code, param=param, executed=True)


def require_step(amount_minor: int, currency: str) -> None:
    """Refuse an amount that the currency is not charged in (400), as Stripe does with half a krona."""
    step = smallest_step(currency.upper())
    if amount_minor % step:
        raise invalid(f"Invalid {currency} amount: it must be evenly divisible by {step}.", "amount")


def unauthorised(message: str) -> RefusedError:
    """No key, or not ours: 401."""
    return RefusedError(401, message)
