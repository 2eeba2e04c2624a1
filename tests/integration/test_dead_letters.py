"""Dead letters in a real Postgres, as the serving role: one statement per decision, whole or not at all."""

import asyncio
import hashlib
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.errors import UniqueViolation

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from domain.errors import ConflictError, DependencyError, NotFoundError, RejectedError
from domain.events import shard_of
from domain.events.ports import Failure
from domain.orders.decide import BOOK, EXPIRE
from domain.orders.state import Status, fold
from storage.market import dead_letters
from storage.market.commands import Recorded, Write
from storage.market.consumers import PostgresConsumerStore
from storage.market.dead_letters import Backlog, DeadLetters, Decision, LetterName
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from tests.contracts.order_store import news, paid, placed
from tests.fakes.carts import cart, order_id
from tests.fakes.order_world import KEY, World

pytestmark = pytest.mark.integration

BODY = {"decision": "retried"}
EFFECT = f"effect:{order_id()}:{BOOK}"
WEBHOOK = "webhook:evt_1"
EVENT = f"event:sales:{order_id()}"


@pytest.fixture
def owner(migrated):
    """The owner's connection; every test starts on empty tables."""
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT string_agg(format('market.%I', tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'market' AND tablename <> 'schema_migrations'"
        ).fetchone()
        connection.execute(f"TRUNCATE {tables[0]}")
        yield connection


@pytest.fixture
async def pool(migrated, owner):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await made.open(wait=True)
    yield made
    await made.close()


@pytest.fixture
def store(pool):
    return PostgresOrderStore(pool)


@pytest.fixture
def letters(pool):
    return DeadLetters(pool)


async def bury_effect(store, _pool):
    await paid(store)
    await store.bury_effect(order_id(), BOOK, "booking_mismatch", "the amounts differ")
    return EFFECT


async def bury_webhook(store, _pool):
    await placed(store)
    await store.bury_webhook(news(), "amount_mismatch", "too little")
    return WEBHOOK


async def park_event(store, pool):
    await placed(store)
    consumers = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
    await consumers.record_failure("sales", Failure(order_id(), 2, "internal_error", "a bug", parked=True))
    return EVENT


@pytest.fixture
async def effect(store, pool):
    return await bury_effect(store, pool)


@pytest.fixture
async def webhook(store, pool):
    return await bury_webhook(store, pool)


@pytest.fixture
async def event(store, pool):
    return await park_event(store, pool)


def write(key="k", request=b"request"):
    return Write("operator_1", key, hashlib.sha256(request).digest())


def decision(verb, letter_id, action_id="act_1"):
    return Decision(verb, LetterName.parse(letter_id), action_id, "Finance has mended it.")


def rows(owner, query):
    return owner.execute(query).fetchall()


async def test_a_letter_of_each_kind_is_listed_newest_first(letters, store, pool, owner, effect):
    await store.bury_webhook(news("evt_7"), "amount_mismatch", "too little")
    consumers = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
    await consumers.record_failure("sales", Failure(order_id(), 1, "internal_error", "a bug", parked=True))
    await consumers.record_failure("sales", Failure(order_id(2), 1, "x", "tried again", parked=False))
    found = await letters.page(None, None, 10)
    kind_of_webhook = "payment_intent.succeeded"
    assert [astuple(one)[:-1] for one in found] == [
        (EVENT, "event", order_id(), "sales", "internal_error", "a bug", 1),
        ("webhook:evt_7", "webhook", order_id(), kind_of_webhook, "amount_mismatch", "too little", 0),
        (effect, "effect", order_id(), BOOK, "booking_mismatch", "the amounts differ", 1),
    ]
    assert all(datetime.now(UTC) - one.dead_since < timedelta(minutes=5) for one in found)
    for kind in ("effect", "webhook", "event"):
        assert [one.kind for one in await letters.page(kind, None, 10)] == [kind]


async def test_pages_meet_every_letter_once_even_if_they_died_together(letters, store, owner):
    for number in range(1, 8):
        await paid(store, number)
        await store.bury_effect(order_id(number), BOOK, "x", "y")
        await store.bury_webhook(news(f"evt_{number}", number), "x", "y")
    owner.execute("UPDATE market.effects SET dead_at = '2026-11-24 12:00+00' WHERE dead_at IS NOT NULL")
    owner.execute("UPDATE market.inbox SET dead_at = '2026-11-24 12:00+00' WHERE event_id < 'evt_4'")
    seen, before = [], None
    while page := await letters.page(None, before, 3):
        seen += page
        before = (page[-1].dead_since, page[-1].letter_id)
    places = [(one.dead_since, one.letter_id) for one in seen]
    assert places == sorted(set(places), reverse=True)
    assert len(seen) == 14


async def test_a_retried_effect_is_due_now_with_all_its_tries(letters, store, owner, effect):
    assert await letters.decide(write(), decision("retry", effect), BODY) is None
    (due,) = await store.claim_due_effects([BOOK], 10, 9.0)
    assert (due.order_id, due.step, due.attempts) == (order_id(), BOOK, 1)
    assert await letters.page(None, None, 10) == []
    detail = {
        "order_id": order_id(),
        "work": BOOK,
        "code": "booking_mismatch",
        "error": "the amounts differ",
        "attempts": 1,
    }
    record = "SELECT action_id, principal_id, action, subject, reason, detail FROM market.operator_actions"
    assert rows(owner, record) == [
        ("act_1", "operator_1", "dead_letter.retry", effect, "Finance has mended it.", detail)
    ]


async def test_a_dropped_effect_is_deleted_and_its_record_says_what_it_was(letters, owner, effect):
    assert await letters.decide(write(), decision("drop", effect), BODY) is None
    assert rows(owner, "SELECT step FROM market.effects WHERE step = 'book'") == []
    ((action, detail),) = rows(owner, "SELECT action, detail FROM market.operator_actions")
    assert (action, detail["code"]) == ("dead_letter.drop", "booking_mismatch")


async def test_only_the_letter_itself_is_touched(letters, store, owner, effect):
    await paid(store, 2)
    await store.bury_effect(order_id(2), BOOK, "x", "y")
    await store.bury_effect(order_id(), EXPIRE, "x", "y")
    await store.bury_webhook(news("evt_2", 2), "x", "y")
    before = {one.letter_id for one in await letters.page(None, None, 10)}
    await letters.decide(write(), decision("retry", effect), BODY)
    assert {one.letter_id for one in await letters.page(None, None, 10)} == before - {effect}


async def test_a_retried_webhook_is_claimed_again(letters, store, webhook):
    await letters.decide(write(), decision("retry", webhook), BODY)
    (claimed,) = await store.claim_due_webhooks(10, 9.0)
    assert (claimed.event_id, claimed.attempts) == ("evt_1", 1)


async def test_a_dropped_webhook_stays_dropped_when_it_comes_again(letters, store, owner, webhook):
    await letters.decide(write(), decision("drop", webhook), BODY)
    look = "SELECT outcome, processed_at IS NOT NULL, dead_at, dead_code FROM market.inbox"
    assert rows(owner, look) == [("dropped", True, None, None)]
    await store.bury_webhook(news(), "amount_mismatch", "too little")
    await store.settle_webhook(news(), "no_change")
    assert await store.store_webhook(news()) == (True, False)
    assert rows(owner, look) == [("dropped", True, None, None)]
    ((detail,),) = rows(owner, "SELECT detail FROM market.operator_actions")
    assert detail["payload"]["payment_intent_id"] == "pi_1", "what money it was about can still be read"


async def test_a_retried_event_is_published_again(letters, owner, event):
    owner.execute("DELETE FROM market.outbox")
    await letters.decide(write(), decision("retry", event), BODY)
    assert rows(owner, "SELECT * FROM market.stuck_events") == []
    assert rows(owner, "SELECT shard, order_id, first_seq, last_seq FROM market.outbox") == [
        (shard_of(order_id()), order_id(), 2, 2)
    ]
    assert rows(owner, "SELECT seq FROM market.consumer_progress") == [(1,)]


async def test_a_dropped_event_counts_as_taken(letters, owner, event):
    await letters.decide(write(), decision("drop", event), BODY)
    assert rows(owner, "SELECT * FROM market.stuck_events") == []
    assert rows(owner, "SELECT seq FROM market.consumer_progress") == [(2,)]


@pytest.mark.parametrize("verb", ["retry", "drop"])
@pytest.mark.parametrize("give_up", [bury_effect, bury_webhook, park_event])
async def test_a_repetition_is_answered_and_does_nothing(letters, store, pool, owner, give_up, verb):
    letter_id = await give_up(store, pool)
    assert await letters.decide(write(), decision(verb, letter_id), BODY) is None
    again = decision(verb, letter_id, "act_2")
    assert await letters.decide(write(), again, {"other": 1}) == Recorded(letter_id, BODY)
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        await letters.decide(write(request=b"another"), again, BODY)
    with pytest.raises(ConflictError, match="dead_letter_gone"):
        await letters.decide(write("k2"), again, BODY)
    assert rows(owner, "SELECT action_id FROM market.operator_actions") == [("act_1",)]
    assert rows(owner, "SELECT idempotency_key FROM market.commands WHERE principal_id = 'operator_1'") == [
        ("k",)
    ]


async def test_a_used_key_changes_nothing_on_a_letter_that_died_again(letters, store, owner, effect):
    await letters.decide(write(), decision("retry", effect), BODY)
    await store.bury_effect(order_id(), BOOK, "booking_mismatch", "again")
    assert await letters.decide(write(), decision("retry", effect, "act_2"), BODY) == Recorded(effect, BODY)
    assert [one.error for one in await letters.page(None, None, 10)] == ["again"]
    assert await letters.decide(write("k2"), decision("retry", effect, "act_2"), BODY) is None
    assert len(rows(owner, "SELECT FROM market.operator_actions")) == 2


@pytest.mark.parametrize("letter_id", [EFFECT, WEBHOOK, EVENT])
async def test_an_unknown_letter_is_not_found(letters, owner, letter_id):
    with pytest.raises(NotFoundError, match="dead_letter_not_found"):
        await letters.decide(write(), decision("drop", letter_id), BODY)
    assert rows(owner, "SELECT FROM market.commands") == []


async def test_work_that_was_never_given_up_is_no_letter(letters, store, pool, owner):
    await paid(store)
    await store.store_webhook(news("evt_2"))
    consumers = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
    await consumers.record_failure("sales", Failure(order_id(), 1, "x", "y", parked=False))
    for letter_id in (EFFECT, "webhook:evt_2", EVENT):
        with pytest.raises(ConflictError, match="dead_letter_gone"):
            await letters.decide(write(), decision("drop", letter_id), BODY)
    assert rows(owner, "SELECT count(*) FROM market.effects WHERE step = 'book'") == [(1,)]


@pytest.mark.parametrize("same_key", [True, False])
async def test_of_decisions_at_once_one_is_done(letters, owner, effect, same_key):
    answers = await asyncio.gather(
        *(
            letters.decide(
                write("k" if same_key else f"k{number}"),
                decision("drop" if number % 2 and not same_key else "retry", effect, f"act_{number}"),
                BODY,
            )
            for number in range(8)
        ),
        return_exceptions=True,
    )
    others = [one for one in answers if one is not None]
    assert len(others) == 7
    if same_key:
        assert others == [Recorded(effect, BODY)] * 7
    else:
        assert all(isinstance(one, ConflictError) for one in others), others
    assert len(rows(owner, "SELECT FROM market.operator_actions")) == 1


async def test_without_its_record_nothing_is_done(letters, owner, effect):
    """The record of an action is part of the action (invariant I12)."""
    owner.execute("INSERT INTO market.operator_actions VALUES ('act_1', 'x', 'x', 'x', 'x')")
    with pytest.raises(UniqueViolation):
        await letters.decide(write(), decision("drop", effect), BODY)
    assert [one.letter_id for one in await letters.page(None, None, 10)] == [effect]
    assert rows(owner, "SELECT FROM market.commands WHERE principal_id = 'operator_1'") == []


async def test_the_serving_role_cannot_rewrite_the_record(letters, migrated, effect):
    await letters.decide(write(), decision("drop", effect), BODY)
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        for statement in (
            "DELETE FROM market.operator_actions",
            "UPDATE market.operator_actions SET reason = ''",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_the_backlog_is_counted_up_to_a_bound(letters, store, owner, monkeypatch, effect):
    owner.execute("UPDATE market.effects SET due_at = now() + interval '1 hour'")
    assert await letters.backlog() == Backlog(0, 0, 1, 0, 0)
    for number in range(2, 6):
        await paid(store, number)
    owner.execute("UPDATE market.effects SET due_at = now() - interval '1 second' WHERE step = 'book'")
    await store.store_webhook(news("evt_2"))
    await store.bury_webhook(news("evt_3"), "x", "y")
    owner.execute("UPDATE market.inbox SET due_at = now() - interval '1 second'")
    assert await letters.backlog() == Backlog(4, 1, 1, 1, 0)
    monkeypatch.setattr(dead_letters, "COUNTED_MAX", 3)
    assert (await letters.backlog()).overdue_effects == 3


async def test_an_operators_retry_finishes_the_order(letters, store, owner):
    """The whole way: Finance refuses, the booking dies, an operator retries, the sweep delivers."""
    world = World()
    world.books.failures = [RejectedError("period_closed", "The period is closed.")]
    effects = Effects(world.gateway, world.books, world.fulfiller, world.clock, world.monotonic)
    host = OrderHost(store, effects, world.clock, world.monotonic)
    await host.place(cart(), KEY)
    assert await host.receive(world.news()) == "applied"
    async with asyncio.timeout(10):
        while not (listed := await letters.page("effect", None, 10)):
            await asyncio.sleep(0.01)
    assert (listed[0].letter_id, listed[0].code) == (EFFECT, "period_closed")
    sweep = Sweep(store, host)
    owner.execute("UPDATE market.effects SET due_at = now() WHERE step = 'book'")
    assert await sweep.once() == 0, "a dead letter is never claimed"
    await letters.decide(write(), decision("retry", EFFECT), BODY)
    assert await sweep.once() == 1
    order = fold(order_id(), (await store.load(order_id())).events)
    assert order.status is Status.DELIVERED
    with pytest.raises(ConflictError, match="dead_letter_gone"):
        await letters.decide(write("k2"), decision("retry", EFFECT), BODY)
    await host.close()


async def test_a_database_that_is_gone_is_said(migrated):
    pool = build_pool(migrated.dsn.replace(str(migrated.server.port), "1"), name="test", size_max=1)
    await pool.open()
    pool.timeout = 0.2
    try:
        with pytest.raises(DependencyError, match="database_unavailable"):
            await DeadLetters(pool).page(None, None, 1)
    finally:
        await pool.close()
