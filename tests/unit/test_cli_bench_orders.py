"""The synthetic orders are real ones: made by the decider, whole, and each with its own strings."""

import pytest

from actors.grains.runtime import GRAIN_BYTES
from cluster.bench import grain_memory, grains
from cluster.bench.order_life import order_id_at, place_command, turns_committed, whole_life
from cluster.bench.synthetic_store import SyntheticOrders, order_id_of
from domain.ids import is_id
from domain.orders.state import Status, fold
from storage.market.turn_rows import turn_rows
from tests.fakes.carts import NOW


@pytest.mark.parametrize("lines", [1, 3])
def test_a_whole_life_ends_delivered_in_four_turns(lines):
    order_id = order_id_at(1_795_000_000_000)
    turns = whole_life(place_command(order_id, "usr_1", NOW, lines))
    assert is_id("ord", order_id)
    assert [turn.order.status for turn in turns] == [
        Status.SCREENED,
        Status.AWAITING_PAYMENT,
        Status.PAID,
        Status.DELIVERED,
    ]
    assert [turn.fence for turn in turns] == [0, 2, 3, 4]
    assert len(turns[-1].licences) == len(turns[-1].deliveries) == lines
    assert [effect.step for turn in turns for effect in turn.due] == ["open_payment", "expire", "book"]
    assert "book" in turns[-1].done
    assert all(turn_rows([turn])["turns"] != "[]" for turn in turns)


def test_a_history_is_cut_into_the_turns_that_committed_it():
    turns = whole_life(place_command(order_id_at(1_795_000_000_000), "usr_1", NOW))
    history = [event for turn in turns for event in turn.events]
    assert turns_committed(history) == [list(turn.events) for turn in turns]


async def test_synthetic_orders_stand_where_they_should_and_share_no_ids():
    store = SyntheticOrders(2, "awaiting_payment")
    stored = [await store.load(order_id_of(number)) for number in (1, 2)]
    orders = [fold(order_id_of(number), one.events) for number, one in enumerate(stored, 1)]
    assert all(order.status is Status.AWAITING_PAYMENT for order in orders)
    assert all(len(order.lines) == 2 for order in orders)
    assert orders[0].buyer_id is not orders[1].buyer_id
    assert orders[0].lines[0].sku_name is not orders[1].lines[0].sku_name
    assert stored[0].payment_handle is not stored[1].payment_handle
    assert await store.load("none_such") is None


async def test_delivered_synthetic_orders_have_licences_of_their_own():
    store = SyntheticOrders(1, "delivered")
    one, other = [fold(order_id_of(n), (await store.load(order_id_of(n))).events) for n in (1, 2)]
    assert one.status is Status.DELIVERED
    assert one.licence_ids[0] is not other.licence_ids[0]


@pytest.mark.parametrize("stage", ["awaiting_payment", "delivered", grain_memory.ABSENT])
async def test_every_grain_that_is_measured_is_live(stage):
    figures = await grain_memory.measure(300, 1, stage)
    assert figures["grains"] == 300
    assert figures["activations_per_s"] > 0
    assert ("commands_per_s" in figures) == (stage == "awaiting_payment")


def test_the_weighing_is_told_by_the_heavier_stage_and_rounded_up():
    def of(count):
        return {"bytes_per_grain": count, "weighed_bytes_per_grain": 3_000}

    variants = {
        "without_state": of(380),
        "delivered": of(2_880),
        "five_lines": of(5_300),
        "delivered_five_lines": of(6_500),
    }
    told = grains.weighing(of(2_500), variants)
    assert told["measured"] == {"GRAIN_BYTES": 400, "STATE_BYTES": 1_600, "LINE_BYTES": 950}
    assert told["error"] == 0.2
    assert told["now"]["GRAIN_BYTES"] == GRAIN_BYTES
