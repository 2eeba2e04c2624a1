"""Evidence in a dispute: when it may be sent, what it says, and what comes of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.bench.order_life import order_id_at, place_command, whole_life
from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders.decide import EVIDENCE_STEP, decide, delivery_id, turn_effects
from domain.orders.events import DeliveryKeyReleased, DisputeUpdated, EvidencePrepared, decode_event
from domain.orders.evidence import EVIDENCE_MAX
from domain.orders.evidence_texts import TEXT_CHARS_MAX, compose
from domain.orders.returned import DisputeStatus
from domain.orders.state import Status, evolve

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DUE = AT + timedelta(days=9)


def told(order, *commands):
    for command in commands:
        for event in decide(order, command):
            order = evolve(order.order_id, order, event)
    return order


def notice(status="needs_response", due_by=DUE):
    return c.NoticeDispute(
        "dp_1", "pi_1", 1_999, "USD", status, "fraudulent", (("txn_1", 1_500),), AT, due_by
    )


@pytest.fixture
def turns():
    return whole_life(place_command(order_id_at(int(AT.timestamp() * 1_000)), "usr_1", AT), "pi_1")


@pytest.fixture
def disputed(turns):
    return told(turns[-1].order, notice())


def prepare(number=1, *, submit=False, digest="d", dispute_id="dp_1", at=AT):
    return c.PrepareEvidence(
        dispute_id, f"evd_{number}", {"uncategorized_text": "x"}, submit, "op", digest, at
    )


def test_a_draft_then_the_final_word_once(disputed):
    drafted = told(disputed, prepare(1), c.RecordEvidence("evd_1", "needs_response", AT))
    assert drafted.disputes[0].stage == "needs_response"
    due, done = turn_effects(decide(drafted, prepare(2, submit=True)))
    assert ([effect.step for effect in due], done) == ([f"{EVIDENCE_STEP}:evd_2"], [])
    submitted = told(drafted, prepare(2, submit=True), c.RecordEvidence("evd_2", "under_review", AT))
    assert submitted.disputes[0].stage == "under_review"
    assert submitted.status is Status.DISPUTED
    _, done = turn_effects(decide(told(drafted, prepare(2)), c.RecordEvidence("evd_2", "needs_response", AT)))
    assert done == [f"{EVIDENCE_STEP}:evd_2"]
    with pytest.raises(ConflictError, match="evidence_submitted"):
        decide(submitted, prepare(3))
    assert decide(submitted, notice("under_review")) == [], "the webhook tells what is known"
    assert decide(submitted, c.RecordEvidence("evd_2", "under_review", AT)) == []


def test_the_same_request_again_is_nothing_and_its_key_is_for_one_request(disputed):
    once = told(disputed, prepare(1))
    assert decide(once, prepare(1)) == []
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        decide(once, prepare(1, digest="other"))


def test_when_evidence_is_refused(disputed):
    for order, command, error, code in (
        (disputed, prepare(dispute_id="dp_9"), NotFoundError, "dispute_not_found"),
        (told(disputed, notice("lost")), prepare(), ConflictError, "dispute_closed"),
        (told(disputed, notice("under_review")), prepare(), ConflictError, "evidence_submitted"),
        (disputed, prepare(at=DUE + timedelta(seconds=1)), ConflictError, "evidence_late"),
    ):
        with pytest.raises(error, match=code):
            decide(order, command)
    full = told(disputed, *(prepare(number) for number in range(EVIDENCE_MAX)))
    with pytest.raises(ConflictError, match="evidence_full"):
        decide(full, prepare(99))
    assert decide(full, prepare(99, submit=True)), "drafts do not end what the bank is to read"


def test_what_stripe_refuses_may_be_sent_again(disputed):
    refused = told(disputed, prepare(1, submit=True), c.RecordEvidenceRefused("evd_1", "c", "r", AT))
    assert refused.disputes[0].evidence[0].failure == ("c", "r")
    assert decide(refused, prepare(2, submit=True))
    assert decide(refused, c.RecordEvidence("evd_1", "under_review", AT)) == []


def test_a_deadline_is_taken_over_and_old_events_have_none(turns):
    order = told(turns[-1].order, notice(due_by=None))
    assert order.disputes[0].due_by is None
    (updated,) = decide(order, notice())
    assert isinstance(updated, DisputeUpdated)
    assert told(order, notice()).disputes[0].due_by == DUE
    old = {"dispute_id": "dp_1", "stage": "under_review", "fee_minor": 0, "fee_added": False}
    assert decode_event("order.dispute_updated", {**old, "at": AT.isoformat()}).due_by is None
    kept = decode_event("order.dispute_updated", {**old, "at": AT.isoformat(), "due_by": DUE.isoformat()})
    assert kept.due_by == DUE


def test_a_lost_dispute_may_be_given_up_by_the_bank(disputed):
    lost = told(disputed, notice("lost"))
    won = told(lost, notice("won"))
    assert won.disputes[0].status is DisputeStatus.WON
    assert won.revoked_lines == lost.revoked_lines, "revoked is for good"
    assert won.returned_minor == 0
    due, _ = turn_effects(decide(lost, notice("won")))
    assert [effect.step for effect in due] == ["book:dispute_won:dp_1"]
    assert decide(won, notice("won")) == []


def test_the_order_says_what_it_knows_with_times(turns, disputed):
    events = [event for turn in turns for event in turn.events]
    released = DeliveryKeyReleased(delivery_id(disputed.order_id, 1), AT + timedelta(minutes=5))
    texts = compose(disputed, [*events, released], "He wrote to us.")
    assert texts["service_date"] == "2026-11-24"
    assert "logline 1.4.0" in texts["product_description"]
    activity = texts["access_activity_log"]
    for words in ("placed the order", "paid by pi_1", "Licences were issued", "ready for the buyer"):
        assert words in activity
    assert "2026-11-24T12:05:00+00:00 The buyer asked for and was given the key" in activity
    assert texts["uncategorized_text"].startswith("He wrote to us.")
    assert "19.99 USD" in texts["uncategorized_text"]
    many = [released] * 1_000
    assert all(len(text) <= TEXT_CHARS_MAX for text in compose(disputed, many, "x" * 30_000).values())


def test_evidence_survives_its_storage(disputed):
    event = decide(disputed, prepare(1))[0]
    stored = {
        "dispute_id": "dp_1", "evidence_id": "evd_1", "texts": {"uncategorized_text": "x"}, "submit": False,
        "prepared_by": "op", "request_digest": "d", "at": AT.isoformat(),
    }  # fmt: skip
    assert decode_event("order.evidence_prepared", stored) == event
    assert isinstance(replace(event, submit=True), EvidencePrepared)
