"""The checker's runs: silent when all is well, by pages and processes, without the books; and its command."""

import json

import pytest
import typer
from checked_orders import ORDERS, PAID, PAID_AGAIN, TOTAL_MINOR, damage, one, sources, violations
from typer.testing import CliRunner

from cluster import checking
from cluster.cli_check import check
from domain.errors import DependencyError
from tests.fakes.carts import order_id

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_clean_database_has_no_violation_in_pages_of_any_size(checked_orders, batch):
    told = []
    report = checking.run(sources(checked_orders), batch=batch, on_violation=told.append)
    assert told == []
    assert (report.orders, report.clean) == (ORDERS, True)
    assert report.totals.captured_minor == {"USD": 4 * TOTAL_MINOR}
    assert report.totals.booked_minor == report.totals.cleared_minor == {"USD": 3 * TOTAL_MINOR}


def test_without_grace_the_totals_cover_every_entry(checked_orders):
    told = []
    report = checking.run(sources(checked_orders), grace_s=0, on_violation=told.append)
    assert report.totals.ledger_minor == {"USD": 3 * TOTAL_MINOR}
    assert told == []


def test_processes_that_share_the_pages_find_the_same(copied_orders, monkeypatch):
    damage(copied_orders, f"DELETE FROM market.effects WHERE {one(PAID)}", PAID_AGAIN)
    monkeypatch.setattr(checking, "PAGES_PER_JOB_MIN", 1)
    assert (
        violations(copied_orders, jobs=2)
        == violations(copied_orders)
        == {("I9", PAID), ("I2", PAID), ("I6", PAID)}
    )
    told = []
    report = checking.run(sources(copied_orders), batch=2, jobs=2, on_violation=told.append)
    assert (report.orders, report.totals.booked_minor) == (ORDERS, {"USD": 3 * TOTAL_MINOR})


def test_an_empty_database_is_clean(whole_database):
    assert violations(whole_database) == set()


def test_without_the_books_the_rest_is_checked(copied_orders):
    damage(copied_orders, f"DELETE FROM market.effects WHERE {one(PAID)}")
    found = []
    where = checking.Sources(copied_orders.dsn_for("market_app"))
    report = checking.run(where, on_violation=found.append)
    assert [(one.invariant, one.order_id) for one in found] == [("I9", order_id(PAID))]
    assert report.totals.cleared_minor == {}


def test_a_database_that_does_not_answer_is_said_so(checked_orders):
    where = checking.Sources(checked_orders.dsn_for("market_app").replace(checked_orders.name, "absent"))
    with pytest.raises(DependencyError, match="market database could not be read"):
        checking.run(where, on_violation=print)


class TestCommand:
    """``marketplace check``."""

    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        app = typer.Typer()
        app.command()(check)
        monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path))

        def run(database, *arguments):
            if database is not None:
                monkeypatch.setenv("MARKET_DSN", database.dsn_for("market_app"))
                monkeypatch.setenv("FINANCE_DSN", database.dsn_for("finance_app"))
            return CliRunner().invoke(app, arguments)

        return run

    def test_nothing_found_is_status_0(self, run, checked_orders):
        result = run(checked_orders)
        assert result.exit_code == 0, result.output
        assert f"Nothing found in {ORDERS} orders" in result.stdout

    def test_violations_are_status_1_and_named(self, run, copied_orders):
        damage(copied_orders, f"DELETE FROM market.effects WHERE {one(PAID)}")
        result = run(copied_orders, "--batch", "1", "--jobs", "1")
        assert result.exit_code == 1
        assert f"I9   {order_id(PAID)}: nothing will ever book" in result.stdout
        document = json.loads(run(copied_orders, "--json").stdout)
        assert (document["ok"], document["by_invariant"], document["orders"]) == (False, {"I9": 1}, ORDERS)
        assert document["list"][0]["order_id"] == order_id(PAID)

    def test_what_cannot_run_is_status_2(self, run, checked_orders, monkeypatch):
        monkeypatch.setenv(
            "MARKET_DSN", checked_orders.dsn_for("market_app").replace(checked_orders.name, "absent")
        )
        result = run(None, "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["code"] == "market_unreadable"
        monkeypatch.delenv("MARKET_DSN")
        result = run(None)
        assert result.exit_code == 2
        assert "make up" in result.stderr
