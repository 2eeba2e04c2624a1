"""Dead letters, for operators: list what was given up, try it again, or let it go.

Each decision needs a reason and leaves a record of who decided what (invariant I12). The answer says what
follows: dropping an effect leaves an order that nobody will finish, and that is the operator's to know.
Refused: to edit work, or to finish it by hand.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import get_args

from starlette.responses import Response

from domain.orders.decide import (
    BOOK,
    CAPTURE_PAYMENT,
    END_REVIEW,
    EVIDENCE_STEP,
    EXPIRE,
    FORGET_KEYS,
    FULFIL,
    OPEN_PAYMENT,
    REFUND_STEP,
    VOID_PAYMENT,
    step_kind,
)
from serve_app import examples
from serve_app.auth import OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.operations import Answer, Handler, Operation
from serve_app.paging import (
    QUERY,
    cursor_after,
    cursor_invalid,
    field_invalid,
    limit_of,
    query_of,
    read_cursor,
)
from serve_app.schemas.dead_letters import (
    DeadLetterDecision,
    DeadLetterPage,
    DeadLetterReason,
    LetterKind,
    letter_document,
)
from storage.market.dead_letters import (
    EFFECT,
    EVENT,
    KINDS,
    WEBHOOK,
    DeadLetter,
    Decision,
    Kind,
    LetterName,
    Verb,
)

ACTION_PREFIX = "act"
_OPERATORS = frozenset({OPERATOR})

RETRIED = {
    EFFECT: "It is due now and has all its tries again. If it dies again it comes back to the list.",
    WEBHOOK: "The order decides on it again within seconds. If it refuses again it comes back to the list.",
    EVENT: "The consumer gets it again within seconds and goes on with the order's later events. If it fails "
    "again it comes back to the list.",
}
DROPPED = {
    WEBHOOK: "The order never learns of it. If money moved, nobody will return it but you, at Stripe.",
    EVENT: "The consumer passes it by and goes on: what it keeps lacks this event for good.",
}
# What stays undone when an effect is dropped, by its step.
UNFINISHED = {
    OPEN_PAYMENT: "The order stays unfinished: its buyer cannot pay, and it never expires.",
    BOOK: "The order stays paid and unfinished: nobody will book, licence or deliver it. Return the money at "
    "Stripe, or the buyer has paid for nothing.",
    FULFIL: "The order stays booked and unfinished: nobody will licence or deliver it. Return the money at "
    "Stripe, or the buyer has paid for nothing.",
    EXPIRE: "The order stays unfinished: it waits for its payment for ever.",
    END_REVIEW: "The order stays unfinished unless somebody decides its review: the deadline is not kept.",
    CAPTURE_PAYMENT: "The order stays unfinished: its authorised payment is not taken, and lapses at Stripe.",
    VOID_PAYMENT: "The payment stays open at Stripe: a buyer may still pay for an order that has ended.",
    REFUND_STEP: "The order stays unfinished: it goes on counting the refund as under way. If Stripe did not "
    "make it, nobody will; make it there by hand, with the refund's id in its metadata.",
    EVIDENCE_STEP: "The bank never gets this evidence. Send it in Stripe's dashboard before the deadline.",
    FORGET_KEYS: "The wrapped keys of the order's delivery stay stored.",
}
UNBOOKED_RETURN = (
    "Finance never learns of it: its books and Stripe's balance differ until it is entered by hand."
)
UNFINISHED_OTHERWISE = "The order stays as it is: nobody will finish this step."


async def list_all(call: Call) -> Response:
    """GET /v1/ops/dead-letters."""
    kind, before, limit = _page_of(call)
    rows = await call.ports.dead_letters.page(kind, before, limit + 1)
    page = rows[:limit]
    cursor = cursor_after(_place(page[-1])) if len(rows) > limit else None
    body = {"items": [letter_document(row) for row in page], "next_cursor": cursor}
    return reply(200, body, {"Cache-Control": "no-store"})


async def retry(call: Call) -> Response:
    """POST /v1/ops/dead-letters/{letter_id}/retry."""
    return await _decide(call, "retry", _retried)


async def drop(call: Call) -> Response:
    """POST /v1/ops/dead-letters/{letter_id}/drop."""
    return await _decide(call, "drop", _dropped)


async def _decide(call: Call, verb: Verb, consequence: Callable[[LetterName], str]) -> Response:
    value = await call.json()
    reason = read_model(DeadLetterReason, value).reason
    name = LetterName.parse(call.parameters["letter_id"])
    decision = Decision(verb, name, call.ports.new_id(ACTION_PREFIX), reason)
    body = {
        "id": name.letter_id,
        "decision": "retried" if verb == "retry" else "dropped",
        "action_id": decision.action_id,
        "reason": reason,
        "consequence": consequence(name),
    }
    return answer(200, body, await call.ports.dead_letters.decide(write_of(call, value), decision, body))


def _retried(name: LetterName) -> str:
    return RETRIED[name.kind]


def _dropped(name: LetterName) -> str:
    if name.kind in DROPPED:
        return DROPPED[name.kind]
    kind = step_kind(name.work)
    if kind == BOOK and name.work != BOOK:
        return UNBOOKED_RETURN
    return UNFINISHED.get(kind, UNFINISHED_OTHERWISE)


def _page_of(call: Call) -> tuple[Kind | None, tuple[datetime, str] | None, int]:
    """Return (kind, letters below this, how many) from the query.

    Raises:
        FieldsInvalidError: ``query_invalid``.
        RejectedError: ``cursor_invalid``.
    """
    query = query_of(call)
    limit = limit_of(query)
    kind: Kind | None = None
    if "kind" in query:
        kind = next((one for one in KINDS if one == query["kind"]), None)
        if kind is None:
            raise field_invalid("kind", f"Give one of {', '.join(KINDS)}, or leave it out.")
    cursor = query.get("cursor")
    return kind, (_read_place(cursor) if cursor else None), limit


def _place(letter: DeadLetter) -> str:
    return f"{letter.dead_since.astimezone(UTC).isoformat()} {letter.letter_id}"


def _read_place(cursor: str) -> tuple[datetime, str]:
    at_text, _, letter_id = read_cursor(cursor).partition(" ")
    try:
        at = datetime.fromisoformat(at_text)
    except ValueError:
        raise cursor_invalid() from None
    if at.tzinfo != UTC or not letter_id.isprintable():
        raise cursor_invalid()
    return at, letter_id


def operations() -> Sequence[Operation]:
    """List the operations on dead letters."""
    kinds = {"type": "string", "enum": list(get_args(LetterKind)), "description": "Only letters of this kind"}
    return (
        Operation(
            "GET",
            "/v1/ops/dead-letters",
            "listDeadLetters",
            "Work that was given up, newest first",
            list_all,
            {200: Answer("A page", DeadLetterPage, {"items": [examples.DEAD_LETTER], "next_cursor": None})},
            roles=_OPERATORS,
            query={**QUERY, "kind": kinds},
            problems=("query_invalid", "cursor_invalid"),
        ),
        _decision("retry", "retryDeadLetter", "Try it again, now and with all its tries", retry),
        _decision("drop", "dropDeadLetter", "Let it go; the answer says what stays undone", drop),
    )


def _decision(verb: Verb, operation_id: str, summary: str, handler: Handler) -> Operation:
    example = examples.RETRIED_LETTER if verb == "retry" else examples.DROPPED_LETTER
    return Operation(
        "POST",
        f"/v1/ops/dead-letters/{{letter_id}}/{verb}",
        operation_id,
        summary,
        handler,
        {200: Answer("Done, or done before", DeadLetterDecision, example)},
        roles=_OPERATORS,
        write=True,
        request=DeadLetterReason,
        request_example={"reason": example["reason"]},
        problems=("dead_letter_not_found", "dead_letter_gone"),
    )
