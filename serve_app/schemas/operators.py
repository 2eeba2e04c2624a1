"""Bodies of operators' tokens, webhooks and the service's own state."""

from typing import Annotated, Literal

from pydantic import Field

from serve_app.schemas.base import Document, Request

Role = Literal["buyer", "seller", "operator", "fraud", "auditor"]


class NewToken(Request):
    """Whom a token is for."""

    role: Role
    principal_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,99}$")]


class IssuedToken(Document):
    """A token, shown once: a repetition of the request has ``token`` null and ``replayed`` true."""

    token: str | None
    role: Role
    principal_id: str
    replayed: bool


class WebhookReceipt(Document):
    """What became of a webhook."""

    received: Literal[True]
    outcome: Literal[
        "applied",
        "no_change",
        "stored",
        "ignored",
        "amount_mismatch",
        "payment_intent_mismatch",
        "second_charge",
        "order_cancelled",
    ]


class Liveness(Document):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Document):
    """Whether the parts that a purchase needs answer."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]
