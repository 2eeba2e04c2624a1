import json

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli_simulate import simulate
from cluster.simulation.postgres import Postgres

app = typer.Typer()
app.command()(simulate)


def invoke(*arguments):
    return CliRunner().invoke(app, [*arguments, "--jobs", "1"])


def test_good_seeds_are_counted_with_their_coverage():
    result = invoke("--seeds", "2", "--from", "5")
    assert result.exit_code == 0
    assert "postgres.commit" in result.stdout
    assert "2 seeds, 0 failed" in result.stdout


def test_json_is_one_object_on_the_last_line():
    result = invoke("--seeds", "2", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout.splitlines()[-1])
    assert (document["seeds"], document["failures"]) == (2, [])
    assert document["virtual_minutes"] > 5
    assert document["coverage"]["buyer abandoned"] > 0


@pytest.fixture
def no_fencing(monkeypatch):
    monkeypatch.setattr(Postgres, "fence_holds", lambda _self, _row, _turn: True)


def test_a_failing_seed_prints_its_order_and_how_to_replay_it(no_fencing):
    result = invoke("--seeds", "4")
    assert result.exit_code == 1
    assert "I8" in result.stdout
    assert "commits" in result.stdout
    assert "replay: marketplace simulate --seed" in result.stdout


def test_a_failing_seed_is_in_the_json(no_fencing):
    result = invoke("--seeds", "4", "--json")
    assert result.exit_code == 1
    failures = json.loads(result.stdout.splitlines()[-1])["failures"]
    found = [violation["order_id"] for failure in failures for violation in failure["violations"]]
    assert any(order_id.startswith("ord_") for order_id in found)
    failure = failures[0]
    assert failure["replay"] == f"marketplace simulate --seed {failure['seed']}"


def test_the_whole_timeline_can_be_printed():
    result = invoke("--seed", "7", "--timeline")
    assert result.exit_code == 0
    assert "everything heals" in result.stdout
