"""Stripe, modelled: PaymentIntents, Checkout Sessions, idempotency keys, and events that must be delivered.

Keys replay the first result of a request, a stored error included, until Stripe prunes them. An intent is
paid once; it can be cancelled until then, but not while it is processing. One of manual capture is held in
between, and may lapse. Every change emits an event, handed to ``emit``; how it is delivered is ``webhooks``'
matter.

``SimulatedGateway`` is the production adapter with its transport replaced: keys, parameters, the order of
requests and the reading of errors are the shipped code's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import stripe

from cluster.simulation.faults import Fault
from cluster.simulation.loop import Process
from cluster.simulation.network import Network, Server
from cluster.simulation.returned import ReturnRefusedError, Returns
from domain.errors import DependencyError
from domain.orders.decide import OPEN_PAYMENT
from domain.orders.ports import PaymentNews
from storage.stripe_gateway import TIMEOUT_S, StripeGateway

SUCCEEDED = "payment_intent.succeeded"
FAILED = "payment_intent.payment_failed"
CANCELED = "payment_intent.canceled"
CAPTURABLE = "payment_intent.amount_capturable_updated"
ACTION = "payment_intent.requires_action"
PAGE_EXPIRED = "checkout.session.expired"
_BAD_REQUEST = 400


class StoredError(Exception):
    """A 500 that Stripe keeps under the idempotency key."""


@dataclass
class Intent:
    """A PaymentIntent."""

    intent_id: str
    order_id: str
    amount_minor: int
    currency: str
    status: str = "requires_payment_method"
    received_minor: int = 0
    stray: bool = False  # made by a person in Stripe's dashboard, not by us
    manual: bool = False  # held until it is captured
    by_hand: bool = False  # captured by a person in the dashboard


@dataclass
class Session:
    """A Checkout Session; its intent is made when it is paid."""

    session_id: str
    order_id: str
    amount_minor: int
    currency: str
    manual: bool = False
    status: str = "open"
    intent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that was taken from a buyer, for the history; ``stray`` as in ``Intent``."""

    order_id: str
    intent_id: str
    amount_minor: int
    currency: str
    stray: bool


@dataclass
class Stripe:
    """See the module. ``emit`` takes each event."""

    emit: Callable[[PaymentNews], None]
    intents: dict[str, Intent] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    # Orders whose payment was opened anew, because Stripe had forgotten the key of the first time.
    reopened: set[str] = field(default_factory=set)
    returns: Returns = field(init=False)
    _pruned: set[str] = field(default_factory=set)
    _keys: dict[str, tuple[object, Any]] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        """Let refunds and disputes tell their news the same way."""
        self.returns = Returns(self.emit, self._id)

    # What merchants call.

    def post(self, key: str, params: object, make: Callable[[], Any], fault: Fault | None) -> Any:
        """Run a request once under its key and replay its first result, errors included."""
        if key in self._keys:
            seen, result = self._keys[key]
            if seen != params:
                raise _refusal("Keys for idempotent requests can only be used with the same parameters.")
        else:
            result = StoredError("api_error") if fault is Fault.STORED_500 else make()
            if fault is Fault.EXECUTED_STORED_500:
                result = StoredError("api_error")
            self._keys[key] = (params, result)
            if key in self._pruned and key.endswith(f":{OPEN_PAYMENT}"):
                self.reopened.add(key.partition(":")[0])
        if isinstance(result, StoredError):
            raise result
        return result

    def create_intent(
        self, order_id: str, amount_minor: int, currency: str, *, manual: bool = False
    ) -> Mapping[str, Any]:
        """POST /v1/payment_intents."""
        intent = self._new_intent(order_id, amount_minor, currency, manual=manual)
        return {"id": intent.intent_id, "client_secret": f"{intent.intent_id}_secret"}

    def create_session(
        self, order_id: str, amount_minor: int, currency: str, *, manual: bool = False
    ) -> Mapping[str, Any]:
        """POST /v1/checkout/sessions."""
        session = Session(self._id("cs"), order_id, amount_minor, currency, manual)
        self.sessions[session.session_id] = session
        return {"id": session.session_id, "url": f"page/{session.session_id}"}

    def intent(self, intent_id: str) -> Mapping[str, Any]:
        """GET /v1/payment_intents/{id}."""
        return _intent_document(self.intents[intent_id])

    def cancel_intent(self, intent_id: str) -> Mapping[str, Any]:
        """POST /v1/payment_intents/{id}/cancel."""
        intent = self.intents[intent_id]
        if intent.status in ("succeeded", "canceled", "processing"):
            raise _refusal(f"You cannot cancel this PaymentIntent because it is {intent.status}.")
        intent.status = "canceled"
        self._emit(CANCELED, intent, "payment_canceled")
        return _intent_document(intent)

    def capture_intent(self, intent_id: str) -> Mapping[str, Any]:
        """POST /v1/payment_intents/{id}/capture."""
        intent = self.intents[intent_id]
        if intent.status != "requires_capture":
            raise _refusal(f"This PaymentIntent could not be captured because it is {intent.status}.")
        self._take(intent, intent.amount_minor)
        return _intent_document(intent)

    def session(self, session_id: str) -> Mapping[str, Any]:
        """GET /v1/checkout/sessions/{id}."""
        session = self.sessions[session_id]
        return {"status": session.status, "payment_intent": session.intent_id}

    def expire_session(self, session_id: str) -> Mapping[str, Any]:
        """POST /v1/checkout/sessions/{id}/expire."""
        session = self.sessions[session_id]
        intent = self.intents[session.intent_id] if session.intent_id else None
        if session.status != "open" or (intent and intent.status == "processing"):
            raise _refusal("Only Checkout Sessions with a status in [open] can be expired.")
        session.status = "expired"
        self._tell_page(session)
        if intent and intent.status == "requires_payment_method":
            self.cancel_intent(intent.intent_id)
        return self.session(session_id)

    def refund_intent(
        self, intent_id: str, amount_minor: int, metadata: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """POST /v1/refunds, by us or by hand; raises ReturnRefusedError."""
        intent = self.intents[intent_id]
        return self.returns.refund(
            intent_id, intent.order_id, intent.received_minor, intent.currency, amount_minor, metadata
        )

    def prune_keys(self) -> None:
        """Forget idempotency keys, as Stripe may after a day."""
        self._pruned.update(self._keys)
        self._keys.clear()

    # What buyers and people at Stripe's dashboard do.

    def decline(self, handle: str) -> None:
        """Pay with a card that is declined."""
        intent = self._payable(handle)
        if intent is not None:
            self._emit(FAILED, intent, "card_declined")

    def begin(self, handle: str) -> Intent | None:
        """Start paying by an order's handle: an intent's secret or a page; None when it cannot be paid."""
        intent = self._payable(handle)
        if intent is not None:
            intent.status = "processing"
        return intent

    def capture(self, intent: Intent, *, short_minor: int = 0) -> None:
        """Take the money of a payment that was begun, or ``short_minor`` less than all of it."""
        if intent.status != "processing":
            return
        for session in self.sessions.values():
            if session.intent_id == intent.intent_id:
                session.status = "complete"
        if intent.manual:
            intent.status = "requires_capture"
            self._emit(CAPTURABLE, intent)
        else:
            self._take(intent, intent.amount_minor - short_minor)

    def ask(self, handle: str) -> None:
        """Have the bank ask the buyer for something."""
        intent = self._payable(handle)
        if intent is not None:
            self._emit(ACTION, intent, "redirect_to_url")

    def lapse(self, intent_id: str) -> bool:
        """End an authorisation that nobody captured; False when there is none."""
        intent = self.intents.get(intent_id)
        if intent is None or intent.status != "requires_capture":
            return False
        intent.status = "canceled"
        self._emit(CANCELED, intent, "expired")
        return True

    def capture_by_hand(self, intent_id: str) -> bool:
        """Capture a held payment in the dashboard, past every review; False when there is none."""
        intent = self.intents.get(intent_id)
        if intent is None or intent.status != "requires_capture":
            return False
        intent.by_hand = True
        self._take(intent, intent.amount_minor)
        return True

    def _take(self, intent: Intent, amount_minor: int) -> None:
        intent.status, intent.received_minor = "succeeded", amount_minor
        self.charges.append(
            Charge(intent.order_id, intent.intent_id, amount_minor, intent.currency, intent.stray)
        )
        self._emit(SUCCEEDED, intent)

    def charge_by_hand(self, order_id: str, amount_minor: int, currency: str) -> Intent:
        """Charge an order a second time, or wrongly: a person's mistake in Stripe's dashboard."""
        intent = self._new_intent(order_id, amount_minor, currency)
        intent.stray, intent.status = True, "processing"
        self.capture(intent)
        return intent

    def _payable(self, handle: str) -> Intent | None:
        if handle.startswith("page/"):
            session = self.sessions[handle.removeprefix("page/")]
            if session.status != "open":
                return None
            if session.intent_id is None:
                session.intent_id = self._new_intent(
                    session.order_id, session.amount_minor, session.currency, manual=session.manual
                ).intent_id
            intent = self.intents[session.intent_id]
        else:
            intent = self.intents[handle.removesuffix("_secret")]
        return intent if intent.status == "requires_payment_method" else None

    def _new_intent(self, order_id: str, amount_minor: int, currency: str, *, manual: bool = False) -> Intent:
        intent = Intent(self._id("pi"), order_id, amount_minor, currency, manual=manual)
        self.intents[intent.intent_id] = intent
        return intent

    def _emit(self, kind: str, intent: Intent, code: str = "") -> None:
        self.emit(
            PaymentNews(
                self._id("evt"),
                intent.order_id,
                kind,
                intent.intent_id,
                intent.amount_minor if kind == CAPTURABLE else intent.received_minor,
                intent.currency,
                code,
                code,
            )
        )

    def _tell_page(self, session: Session) -> None:
        self.emit(
            PaymentNews(
                self._id("evt"), session.order_id, PAGE_EXPIRED, "", 0, "", "", "",
                object_id=session.session_id,
            )
        )  # fmt: skip

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count}"


class SimulatedGateway(StripeGateway):
    """The production gateway of one process; only its transport is the simulation's."""

    def __init__(  # not super's: there is no SDK client to make
        self, network: Network, process: Process, server: Server, model: Stripe
    ) -> None:
        self._network = network
        self._process = process
        self._server = server
        self._model = model
        self._return_url = "return"

    async def close(self) -> None:
        """Close nothing."""

    async def _request(self, method: str, path: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        boundary, subject, execute = self._route(method, path, params)
        try:
            answer: Mapping[str, Any] = await self._network.call(
                self._process, self._server, boundary, subject, execute, _lost, TIMEOUT_S
            )
        except StoredError as error:
            raise DependencyError("payment_provider_unavailable", f"Stripe: {error}") from error
        return answer

    def _route(self, method: str, path: str, params: Mapping[str, Any]) -> tuple[str, str, Callable[[], Any]]:
        model = self._model
        if path == "/v1/payment_intents":
            order_id = params["metadata"]["order_id"]
            return (
                "stripe.create_intent",
                order_id,
                lambda: self._create(
                    params,
                    lambda: model.create_intent(
                        order_id,
                        params["amount"],
                        params["currency"].upper(),
                        manual=params.get("capture_method") == "manual",
                    ),
                ),
            )
        if path == "/v1/checkout/sessions":
            order_id = params["client_reference_id"]
            items = params["line_items"]
            total_minor = sum(item["quantity"] * item["price_data"]["unit_amount"] for item in items)
            currency = items[0]["price_data"]["currency"].upper()
            return (
                "stripe.create_session",
                order_id,
                lambda: self._create(
                    params,
                    lambda: model.create_session(
                        order_id,
                        total_minor,
                        currency,
                        manual=params["payment_intent_data"].get("capture_method") == "manual",
                    ),
                ),
            )
        if path == "/v1/refunds":
            intent_id = params["payment_intent"]
            if method == "get":
                listing = lambda: model.returns.listed(intent_id)  # noqa: E731 - one of three alike
                return "stripe.list_refunds", self._order_of(intent_id), listing
            return "stripe.create_refund", self._order_of(intent_id), lambda: self._refund(params)
        kind, object_id, *action = path.removeprefix("/v1/checkout/").removeprefix("/v1/").split("/")
        what = "intent" if kind == "payment_intents" else "session"
        verb = action[0] if action else "retrieve"
        if verb == "capture":
            capturing = lambda: self._create(params, lambda: model.capture_intent(object_id))  # noqa: E731
            return "stripe.capture_intent", self._order_of(object_id), capturing
        run = {
            "retrieve intent": model.intent,
            "cancel intent": model.cancel_intent,
            "retrieve session": model.session,
            "expire session": model.expire_session,
        }[f"{verb} {what}"]
        return f"stripe.{verb}_{what}", self._order_of(object_id), lambda: run(object_id)

    def _refund(self, params: Mapping[str, Any]) -> Any:
        try:
            return self._create(
                params,
                lambda: self._model.refund_intent(
                    params["payment_intent"], params["amount"], params["metadata"]
                ),
            )
        except ReturnRefusedError as refused:
            raise _refusal(str(refused)) from refused

    def _create(self, params: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        content = {name: value for name, value in params.items() if name != "idempotency_key"}
        return self._model.post(params["idempotency_key"], content, make, self._network.executing)

    def _order_of(self, object_id: str) -> str:
        found = self._model.intents.get(object_id) or self._model.sessions.get(object_id)
        return found.order_id if found else ""


def _intent_document(intent: Intent) -> Mapping[str, Any]:
    return {
        "id": intent.intent_id,
        "status": intent.status,
        "amount_received": intent.received_minor,
        "currency": intent.currency.lower(),
    }


def _refusal(words: str) -> stripe.InvalidRequestError:
    return stripe.InvalidRequestError(  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
        words, param=None, http_status=_BAD_REQUEST
    )


def _lost(why: str) -> DependencyError:
    return DependencyError("payment_provider_unavailable", f"Stripe's reply was lost: {why}.")
