import json
import re

import orjson
import pytest
import typer

from cluster import cli_bench
from cluster.bench import baseline, process_groups, report
from cluster.bench.process_groups import Snapshot, Usage
from domain.orders.decide import decide
from domain.orders.events import (
    KIND_OF,
    OrderBooked,
    OrderDelivered,
    OrderLicensed,
    OrderPaid,
    PaymentOpened,
)
from tests.fakes.carts import NOW, RECIPIENT, cart, order_id


def sample():
    events = [
        *decide(None, cart()),
        PaymentOpened("pi_1", None, NOW),
        OrderPaid("pi_1", "evt_1", 1999, "USD", NOW),
        OrderBooked(f"{order_id()}:capture", "ent_1", NOW),
        OrderLicensed(("lic_1",), "key_1", NOW),
        OrderDelivered(("dlv_1",), NOW),
    ]
    rows = [
        {
            "seq": seq,
            "event_id": f"evt_{seq}",
            "kind": KIND_OF[type(event)],
            "data": json.loads(orjson.dumps(event)),
        }
        for seq, event in enumerate(events, 1)
    ]
    licence = {
        "licence_id": "lic_1",
        "line_no": 1,
        "sku_id": "sku_1",
        "release_id": "rel_1",
        "quantity": 1,
        "key_id": "key_1",
        "envelope": '{"payload":"it\'s: a \\\\ test"}',
        "issued_at": NOW.isoformat(),
    }
    delivery = {
        "delivery_id": "dlv_1",
        "line_no": 1,
        "release_id": "rel_1",
        "mode": "recipient",
        "recipient": RECIPIENT,
        "header": "\\x6869",
        "manifest": "{}",
    }
    handle, payload = {"client_secret": "x"}, {"amount_minor": 1999}
    return baseline.SampleOrder(order_id(), "buyer_ada", rows, [licence], [delivery], handle, payload)


def test_the_baseline_runs_the_statements_of_one_order_in_their_order():
    text = baseline.script(sample())
    statements = text.split(";\n")[:-1]
    assert len(statements) == 5
    marks = ["market.commands", "payment_opened", "stripe_event_id", "finance.entries", "order.delivered"]
    for mark, statement in zip(marks, statements, strict=True):
        assert mark in statement


def test_the_baselines_webhook_is_kept_by_the_commit_of_its_payment():
    paid = next(turn for turn in baseline.turns(sample()) if turn.news)
    assert [type(event) for event in paid.events] == [OrderPaid]
    assert (paid.fence, paid.order.seq) == (3, 4)
    assert paid.news.event_id == "evt_1"


def test_the_baseline_licenses_and_delivers_in_the_turn_of_the_booking():
    *_, last = baseline.turns(sample())
    assert [type(event) for event in last.events] == [OrderBooked, OrderLicensed, OrderDelivered]
    assert last.due == []
    assert (len(last.licences), len(last.deliveries)) == (1, 1)


def test_no_two_orders_of_the_baseline_share_an_id():
    text = baseline.script(sample())
    assert order_id() not in text
    assert '"evt_1"' not in text
    assert text.count("@N@") > 10


def test_the_baseline_has_no_open_parameter_and_no_stray_pgbench_variable():
    text = baseline.script(sample())
    assert "%(" not in text
    assert "%s" not in text
    variables = set(re.findall(r"(?<!:):([A-Za-z_]\w*)", text))
    assert variables == {"n", "id", "client_id"}


@pytest.mark.parametrize(
    ("command_line", "group"),
    [
        ("ray::ServeReplica:marketplace:OrderHost", "order_hosts"),
        ("ray::ServeReplica:marketplace:OrderHostDeployment.handle_request", "order_hosts"),
        ("ray::ServeReplica:marketplace:SignerDeployment", "signer"),
        ("ray::ServeReplica:marketplace:Ingress", "ingress"),
        ("ray::ServeReplica:marketplace:Background", "background"),
        ("ray::ServeController", "ray_system"),
        ("ray::IDLE", "ray_system"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ilv/ray", "ray_system"),
        ("/x/haproxy -f /tmp/ilv/haproxy.cfg", "haproxy"),
        ("postgres: market_app market 127.0.0.1(1) idle", "postgres"),
        ("/x/python -m cluster.finance", "finance"),
        ("/x/python -m cluster.local.stripe --host 127.0.0.1", "stripe_simulator"),
        ("/x/weed -config_dir=cfg mini", "weed"),
    ],
)
def test_processes_are_named_by_their_command_line(command_line, group):
    assert process_groups.group_of(command_line) == group


def test_cpu_counts_new_processes_and_reports_ended_ones():
    before = Snapshot({(1, 0.0): Usage("a", 1.0, 0), (2, 0.0): Usage("b", 5.0, 0)})
    after = Snapshot({(1, 0.0): Usage("a", 1.5, 2**20), (3, 9.0): Usage("a", 0.25, 2**20)})
    spent, ended = process_groups.cpu_seconds(before, after)
    assert spent == {"a": 0.75}
    assert ended == 1
    assert process_groups.rss_mb(after) == {"a": 2.0}


def test_percentiles_are_nearest_rank():
    values = [float(value) for value in range(1, 101)]
    assert report.latencies(values) == {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
    assert report.latencies([7.0]) == {"p50_ms": 7.0, "p95_ms": 7.0, "p99_ms": 7.0}
    assert report.latencies([]) == {"p50_ms": None, "p95_ms": None, "p99_ms": None}


def test_the_machine_is_named():
    assert report.machine()["cores"] >= 1


@pytest.mark.parametrize("text", ["", "x", "0", "1,,2", "1,300"])
def test_numbers_out_of_bounds_are_wrong_usage(text):
    with pytest.raises(typer.BadParameter, match="1 to 256"):
        cli_bench._numbers(text, "--buyers", 256)


def test_several_numbers_are_taken_in_their_order():
    assert cli_bench._numbers("16", "--buyers", 256) == (16,)
    assert cli_bench._numbers("64,1,4", "--buyers", 256) == (64, 1, 4)
