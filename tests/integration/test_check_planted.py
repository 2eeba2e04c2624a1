"""The checker finds each planted damage and names it, and takes nothing that is under way for damage."""

import json
from datetime import timedelta

import pytest
from checked_orders import (
    BOOKED,
    DELIVERED,
    OPEN,
    ORDERS,
    PAID,
    PAID_AGAIN,
    SOUND,
    damage,
    one,
    sources,
    violations,
)

from cluster import checking
from domain.orders.booking import capture_entry_key
from tests.fakes.carts import order_id

pytestmark = pytest.mark.integration


def entry(number):
    key = capture_entry_key(order_id(number))
    return f"entry_id = (SELECT entry_id FROM finance.entries WHERE entry_key = '{key}')"


QUEUED = f"""
INSERT INTO market.outbox (shard, order_id, first_seq, last_seq) VALUES (0, '{order_id(PAID)}', {{}}, {{}})
"""
PROGRESS = f"UPDATE market.consumer_progress SET seq = {{}}, from_seq = 0 WHERE order_id = '{order_id(PAID)}'"
PARKED = f"""
INSERT INTO market.stuck_events (consumer, order_id, seq, attempts, code, error, parked_at)
VALUES ('sales', '{order_id(PAID)}', 3, 1, 'x', 'x', now())
"""
UNSOLD = (
    "UPDATE market.sales_by_day SET orders = orders - 1, units = units - 1, gross_minor = gross_minor - 1999"
)
SWAPPED = """
UPDATE market.{table} AS a SET {column} = b.{column}
FROM market.{table} AS b WHERE a.order_id = '{one}' AND b.order_id = '{other}'
"""
POST = """
INSERT INTO finance.entries (entry_key, currency, occurred_at, posted_at, description, content_digest,
                             posting_count)
VALUES ('{key}', 'USD', now(), now() - interval '1 hour', '', sha256('x'), 2)
"""
LEGS = """
INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
SELECT entry_id, n, a, m, 'USD', occurred_at FROM finance.entries,
    (VALUES (1, 'stripe:clearing', 5), (2, 'platform:fees', -5)) AS legs (n, a, m)
WHERE entry_key = '{key}'
"""
WEBHOOK = """
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, dead_at)
VALUES ('evt_x', '{order_id}', 'k', '{{}}', now() - interval '1 hour', {dead})
"""
STRAY_KEY = capture_entry_key(order_id(99))
OPEN_KEY = capture_entry_key(order_id(OPEN))
DAMAGE = {
    "an event that was rewritten": (
        {("I6", PAID)},
        [f"UPDATE market.order_events SET at = at - interval '1 s' WHERE {one(PAID)} AND seq = 2"],
    ),
    "an event that is not in the audit log": (
        {("I6", PAID), ("I6", None)},
        [
            f"UPDATE market.order_events SET at = at - interval '1 h' WHERE {one(PAID)} AND seq = 2",
            f"DELETE FROM market.audit_entries WHERE {one(PAID)} AND seq = 2",
        ],
    ),
    "an entry that commits to something else": (
        {("I6", PAID)},
        [f"UPDATE market.audit_entries SET digest = sha256('x') WHERE {one(PAID)} AND seq = 2"],
    ),
    "an event that was rewritten and its salt destroyed": (
        {("I6", PAID)},
        [
            f"UPDATE market.audit_entries SET salt = NULL WHERE {one(PAID)} AND seq = 2",
            f"UPDATE market.order_events SET at = at - interval '1 s' WHERE {one(PAID)} AND seq = 2",
        ],
    ),
    "an audit log that says that it is longer": (
        {("I6", None)},
        ["UPDATE market.audit_log SET size = size + 1"],
    ),
    "a checkpoint of another tree": (
        {("I6", None)},
        ["INSERT INTO market.audit_checkpoints VALUES (3, 'key_1', sha256('x'), 'note', now())"],
    ),
    "a checkpoint beyond the audit log": (
        {("I6", None)},
        ["INSERT INTO market.audit_checkpoints VALUES (999, 'key_1', sha256('x'), 'note', now())"],
    ),
    "a checkpoint that nobody signed": (
        {("I6", None)},
        [
            "INSERT INTO market.audit_checkpoints SELECT 3, 'key_1', market.audit_root(3), 'note', now()",
        ],
    ),
    "a subtree of no entries": (
        {("I6", None)},
        ["INSERT INTO market.audit_subtrees VALUES (1, 0, sha256('x'))"],
    ),
    "paid twice": (
        {("I2", PAID)},
        [PAID_AGAIN, f"UPDATE market.orders SET seq = 5 WHERE {one(PAID)}", QUEUED.format(5, 5)],
    ),
    "a licence lost": ({("I3", DELIVERED)}, [f"DELETE FROM market.licences WHERE {one(DELIVERED)}"]),
    "a licence of another line": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET line_no = 2 WHERE {one(DELIVERED)}"],
    ),
    "a delivery lost": ({("I3", DELIVERED)}, [f"DELETE FROM market.deliveries WHERE {one(DELIVERED)}"]),
    "a licence of another buyer": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET buyer_id = 'mallory' WHERE {one(DELIVERED)}"],
    ),
    "a licence of another SKU": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET sku_id = 'sku_2' WHERE {one(DELIVERED)}"],
    ),
    "a licence of another release": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET release_id = 'rel_2' WHERE {one(DELIVERED)}"],
    ),
    "a licence revoked for nothing": (
        {("I5", DELIVERED)},
        [f"UPDATE market.licences SET status = 'revoked' WHERE {one(DELIVERED)}"],
    ),
    "a licence that names another order": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [SWAPPED.format(table="licences", column="envelope", one=order_id(DELIVERED), other=order_id(SOUND))],
    ),
    "a licence that is no document": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [f"UPDATE market.licences SET envelope = 'envelope' WHERE {one(DELIVERED)}"],
    ),
    "a delivery of another buyer": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET buyer_id = 'mallory' WHERE {one(DELIVERED)}"],
    ),
    "a delivery in another mode": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET mode = 'released_key' WHERE {one(DELIVERED)}"],
    ),
    "a delivery sealed for somebody else": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET recipient = 'age1mallory' WHERE {one(DELIVERED)}"],
    ),
    "a delivery under another header": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET header = 'x' WHERE {one(DELIVERED)}"],
    ),
    "a manifest of another order": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [
            SWAPPED.format(
                table="deliveries", column="manifest", one=order_id(DELIVERED), other=order_id(SOUND)
            )
        ],
    ),
    "an event that never left": ({("I6", PAID)}, [PROGRESS.format(3), UNSOLD]),
    "an event that waits in part": ({("I6", PAID)}, [PROGRESS.format(2), UNSOLD, QUEUED.format(4, 4)]),
    "progress lost": ({("I6", PAID)}, [f"DELETE FROM market.consumer_progress WHERE {one(PAID)}", UNSOLD]),
    "progress beyond the events": ({("I6", PAID)}, [PROGRESS.format(9)]),
    "an outbox row of no event": ({("I6", PAID)}, [QUEUED.format(4, 5)]),
    "a sale not counted": ({("I6", None)}, [UNSOLD]),
    "a sale counted on another day": ({("I6", None)}, ["UPDATE market.sales_by_day SET day = day + 1"]),
    "a licence before the booking": (
        {("I4", PAID), ("I3", DELIVERED), ("I6", PAID)},
        [f"UPDATE market.licences SET order_id = '{order_id(PAID)}' WHERE {one(DELIVERED)}"],
    ),
    "an entry lost": (
        {("I4", DELIVERED)},
        [
            f"DELETE FROM finance.postings WHERE {entry(DELIVERED)}",
            f"DELETE FROM finance.entries WHERE {entry(DELIVERED)}",
        ],
    ),
    "an entry of other amounts": (
        {("I1", DELIVERED)},
        [
            f"UPDATE finance.postings SET amount_minor = -1999 WHERE {entry(DELIVERED)} AND position = 2",
            f"DELETE FROM finance.postings WHERE {entry(DELIVERED)} AND position = 3",
        ],
    ),
    "an entry of an order that nobody paid": (
        {("I1", OPEN)},
        [POST.format(key=OPEN_KEY), LEGS.format(key=OPEN_KEY)],
    ),
    "an entry of no order": ({("I1", None)}, [POST.format(key=STRAY_KEY), LEGS.format(key=STRAY_KEY)]),
    "an entry of no order with an odd key": ({("I1", None)}, [POST.format(key="1"), LEGS.format(key="1")]),
    "an event lost": (
        {("I6", DELIVERED)},
        [f"DELETE FROM market.order_events WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event renamed": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET event_id = 'evt_x' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event of an unknown kind": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET kind = 'order.eaten' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event with a member too many": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET data = data || '{{\"x\": 1}}' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "the last event lost": (
        {("I6", OPEN), ("I9", OPEN)},
        [f"DELETE FROM market.order_events WHERE {one(OPEN)} AND seq = 3"],
    ),
    "another status": ({("I6", PAID)}, [f"UPDATE market.orders SET status = 'delivered' WHERE {one(PAID)}"]),
    "another total": ({("I6", PAID)}, [f"UPDATE market.orders SET total_minor = 1 WHERE {one(PAID)}"]),
    "an order lost": ({("I6", OPEN)}, [f"DELETE FROM market.orders WHERE {one(OPEN)}"]),
    "an effect lost": ({("I9", PAID)}, [f"DELETE FROM market.effects WHERE {one(PAID)}"]),
    "a timer lost": ({("I9", OPEN)}, [f"DELETE FROM market.effects WHERE {one(OPEN)}"]),
    "an effect left over": (
        {("I9", DELIVERED)},
        [f"INSERT INTO market.effects VALUES ('{order_id(DELIVERED)}', 'book', now())"],
    ),
    "an effect that nobody takes": (
        {("I9", BOOKED)},
        [f"UPDATE market.effects SET due_at = now() - interval '1 hour' WHERE {one(BOOKED)}"],
    ),
    "a webhook that nobody takes": (
        {("I9", OPEN)},
        [WEBHOOK.format(order_id=order_id(OPEN), dead="NULL")],
    ),
    "the paying webhook lost": ({("I10", DELIVERED)}, [f"DELETE FROM market.inbox WHERE {one(DELIVERED)}"]),
    "the paying webhook not processed": (
        {("I10", DELIVERED)},
        [f"UPDATE market.inbox SET processed_at = NULL, due_at = now() WHERE {one(DELIVERED)}"],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_nothing_else(copied_orders, name):
    expected, statements = DAMAGE[name]
    damage(copied_orders, *statements)
    assert violations(copied_orders) == expected


@pytest.mark.parametrize(
    "statements",
    [
        [PROGRESS.format(3), UNSOLD, QUEUED.format(4, 4)],
        [PROGRESS.format(2), UNSOLD, PARKED],
        [PROGRESS.format(2), UNSOLD, PARKED, QUEUED.format(4, 4)],
        # Taken, and then sent once more.
        [QUEUED.format(1, 4)],
        # Settled: everything recorded by then was taken, though no row says so any more.
        [
            f"DELETE FROM market.consumer_progress WHERE {one(PAID)}",
            "UPDATE market.consumers SET settled_before = now()",
        ],
        # A consumer that was added later, and has not been sent the history.
        ["INSERT INTO market.consumers (consumer) VALUES ('later')"],
        # The same of the one whose sums are compared.
        [
            f"DELETE FROM market.consumer_progress WHERE {one(PAID)}",
            UNSOLD,
            "UPDATE market.consumers SET registered_at = now()",
        ],
    ],
    ids=["waits", "parked", "waits behind a parked one", "again", "settled", "added later", "no history"],
)
def test_an_event_on_its_way_is_not_lost(copied_orders, statements):
    damage(copied_orders, *statements)
    assert violations(copied_orders) == set()


def test_a_licence_that_waited_for_its_signer_is_not_missed_by_the_log_at_once(copied_orders):
    licensed = f"{one(DELIVERED)} AND kind = 'order.licensed'"
    damage(
        copied_orders,
        f"DELETE FROM market.audit_entries WHERE {one(DELIVERED)} AND (kind = 'licence'"
        f" OR subject_id IN (SELECT event_id FROM market.order_events WHERE {licensed}))",
        f"UPDATE market.order_events SET at = now() WHERE {licensed}",
        f"UPDATE market.licences SET issued_at = now() - interval '1 h' WHERE {one(DELIVERED)}",
    )
    assert violations(copied_orders) == {("I6", None)}, "the gap in the log alone"


def test_while_no_consumer_is_registered_every_event_waits(copied_orders):
    damage(copied_orders, "DELETE FROM market.consumers")
    assert violations(copied_orders) == {("I6", number) for number in range(1, ORDERS + 1)}


def test_an_entry_that_does_not_balance_shows_in_the_order_and_in_the_whole(copied_orders):
    damage(
        copied_orders,
        f"UPDATE finance.postings SET amount_minor = 1 WHERE {entry(DELIVERED)} AND position = 3",
    )
    damage(copied_orders, "UPDATE finance.entries SET posted_at = posted_at - interval '1 hour'")
    assert violations(copied_orders) == {("I1", DELIVERED), ("I1", None)}


def test_a_dead_letter_is_an_open_case(copied_orders):
    damage(
        copied_orders,
        f"UPDATE market.effects SET dead_at = now(), due_at = now() - interval '1 day' WHERE {one(PAID)}",
        WEBHOOK.format(order_id=order_id(99), dead="now()"),
    )
    assert violations(copied_orders) == set()


def test_a_dropped_letter_is_told_from_a_lost_effect(copied_orders):
    detail = json.dumps({"order_id": order_id(PAID), "work": "book"})
    damage(
        copied_orders,
        f"DELETE FROM market.effects WHERE {one(PAID)}",
        "INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)"
        f" VALUES ('act_1', 'usr_op', 'dead_letter.drop', 'effect', 'refunded by hand', '{detail}')",
    )
    found = []
    checking.run(sources(copied_orders), on_violation=found.append)
    assert [(one.invariant, one.order_id) for one in found] == [("I9", order_id(PAID))]
    assert "an operator dropped it" in found[0].detail


def test_running_work_has_its_grace(copied_orders):
    damage(
        copied_orders,
        POST.format(key=OPEN_KEY),
        LEGS.format(key=OPEN_KEY),
        "UPDATE finance.entries SET posted_at = now() - interval '10 seconds'",
        f"UPDATE market.effects SET due_at = now() - interval '10 seconds' WHERE {one(PAID)}",
    )
    assert violations(copied_orders, grace_s=60) == set()
    assert violations(copied_orders, grace_s=5) == {("I1", OPEN), ("I9", PAID)}
    assert timedelta(seconds=checking.GRACE_S) > timedelta(seconds=60), "above the longest backoff"
