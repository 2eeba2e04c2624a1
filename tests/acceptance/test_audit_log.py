"""The audit log of the real marketplace, watched from outside with nothing but its address and a key."""

import json
import time

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

LOGGED_WITHIN_S = 20.0  # half a second and a checkpoint's second, on a busy machine


def told(done, status=0):
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def soon(ask):
    """Ask until the answer is a success: a purchase enters the log a moment after it is done."""
    deadline = time.monotonic() + LOGGED_WITHIN_S
    while (done := ask()).returncode != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    return told(done)


def test_a_purchase_is_in_the_log_and_proven_without_a_network(market, tmp_path):
    told(market.cli("buyer", "keygen", "--json", cwd=tmp_path))
    order = told(market.cli("buyer", "buy", "logline", "--json", cwd=tmp_path))["order"]
    token = {"MARKETPLACE_TOKEN": market.local["tokens"]["buyer"]}
    with market.http("buyer") as client:
        (delivery,) = client.get(f"/v1/orders/{order['id']}/deliveries").json()["items"]
    for subject in (delivery["licence"]["id"], delivery["id"]):
        proof = soon(lambda one=subject: market.cli("audit", "prove", one, "--json", cwd=tmp_path, **token))
        alone = {"MARKETPLACE_URL": market.local["base_url"], "HTTP_PROXY": "http://127.0.0.1:9"}
        shown = told(market.cli("audit", "verify", proof["file"], "--json", cwd=tmp_path, **alone))
        assert shown["position"] == proof["position"]


def test_the_whole_log_is_recomputed_and_its_growth_is_noticed(market, buyer, wish, tmp_path):
    first = soon(lambda: market.cli("audit", "verify", "--json", cwd=tmp_path))
    placed = buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": f"audit-{time.time_ns()}"})
    assert placed.status_code == 201, placed.text
    deadline = time.monotonic() + LOGGED_WITHIN_S
    second = first
    while second["size"] <= first["size"] and time.monotonic() < deadline:
        second = told(market.cli("audit", "verify", "--json", cwd=tmp_path))
    assert second["size"] > first["size"]
    exported = told(
        market.cli(
            "audit",
            "export",
            "--out",
            "log.jsonl",
            "--json",
            cwd=tmp_path,
            MARKETPLACE_TOKEN=market.local["tokens"]["auditor"],
        )
    )
    assert exported["size"] >= second["size"]
    subjects = [json.loads(line)["record"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any(placed.json()["id"] in record for record in subjects)


def test_the_checker_finds_every_fact_in_the_log(market, tmp_path):
    done = market.cli("check", "--json", cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert "I6" not in found["by_invariant"], found["list"]
    assert found["events"] > 0
