"""The signing backend goes away under load, and its key is rotated: buyers go on buying, nothing is lost.

The whole marketplace signs through the signing proxy, by mutual TLS, in front of SoftHSM where that is
installed (else a key file): no private key and no PIN is in Ray's processes.
"""

import base64
import importlib.util
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from harness import ProxiedStack, Stand, new_home, running
from harness_shoppers import Shoppers

from cluster.local import state
from cluster.local.layout import read_json, write_json
from domain import canonical_json, key_lists
from domain.dsse import Envelope, signing_key
from domain.licences import armour, open_envelope
from serve_app.routes.licences import KEYS_TTL_S
from storage.market.signing_keys import add_root
from storage.signing.backends import open_backend
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

FIRST_S = 60.0
SHORT_S, LONG_S = 8.0, 60.0
HEALED_S = 30.0  # an order's next try may be that far away after a long outage


def _services():
    if "key_services" not in sys.modules:
        folder = Path(__file__).parents[1] / "integration"
        for name in ("postgres_fixture", "finance_process", "key_services"):
            if name not in sys.modules:
                spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])
    return sys.modules["key_services"]


class BackedStack(ProxiedStack):
    """A stack that signs with another backend than its own key file."""

    def __init__(self, home: Path, *backends: str) -> None:
        super().__init__(home)
        self._backends = backends

    def _prepare(self) -> None:
        super()._prepare()
        settings = read_json(self.layout.settings_json)
        write_json(self.layout.settings_json, settings | {"signing": {"backends": self._backends}})


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    services = _services()
    folder = tmp_path_factory.mktemp("backend")
    environment = {}
    if services.softhsm_module() is not None:
        held = services.made_softhsm(folder, load=False)
        environment["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    else:
        held = services.made_key_file(folder)
    with services.running_proxy(tmp_path_factory.mktemp("proxy"), held.address, **environment) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def successor(tmp_path_factory):
    """A second backend, for the key that comes after."""
    services = _services()
    held = services.made_key_file(tmp_path_factory.mktemp("successor"))
    with services.running_proxy(tmp_path_factory.mktemp("proxy2"), held.address) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def backed(backend, successor):
    with running(BackedStack(new_home(), backend.address, successor.address)) as stack:
        yield Stand(stack)


def go_away_under_load(backed, backend, seconds):
    with Shoppers(backed) as shoppers:
        shoppers.wait_for_deliveries(10, FIRST_S)
        backend.pause()
        try:
            deadline = time.monotonic() + seconds
            told = set()
            while time.monotonic() < deadline:  # the fault itself
                with backed.http() as client:
                    answer = client.get("/readyz")
                told.add((answer.status_code, answer.json()["checks"].get("signing_backend")))
                time.sleep(0.5)
        finally:
            backend.resume()
        resumed_at = time.monotonic()
        shoppers.wait_for_deliveries(10, HEALED_S)
        healed_s = time.monotonic() - resumed_at
        seen = shoppers.stop()
    backed.judge(seen, within_s=120)
    assert (200, False) in told, "readiness shows the backend and keeps the replicas in service"
    assert {status for status, _ in told} == {200}
    waited = [one for one in seen.paid() if one.paid_at < resumed_at and one.delivered_at > resumed_at]
    assert waited, "no order was paid during the outage and delivered after it"
    seen.tell(f"signing backend away for {seconds} s", next=healed_s, waited=len(waited))


def test_no_private_key_is_in_rays_processes_and_licences_verify(backed, backend):
    with Shoppers(backed) as shoppers:
        shoppers.wait_for_deliveries(5, FIRST_S)
        seen = shoppers.stop()
    backed.judge(seen)
    settings = (backed.stack.layout.settings_json).read_text()
    assert "proxy:https://" in settings
    with backed.http() as client:
        (key,) = client.get("/v1/keys").json()["items"]
    public_key = base64.b64decode(key["public_key"])
    bought = seen.delivered()[0]
    with backed.http(token=bought.token) as client:
        (delivery,) = client.get(f"/v1/orders/{bought.order_id}/deliveries").json()["items"]
        report = client.post("/v1/licences/verify", json={"licence": delivery["licence"]["armoured"]}).json()
    assert report["valid"] is True
    envelope, _ = open_envelope(_text(delivery["licence"]["envelope"]))
    assert signing_key(envelope, {key["key_id"]: public_key}, verify) == key["key_id"]
    assert Envelope.parse(_text(delivery["manifest"])).signatures[0].key_id == key["key_id"]
    record = state.read_record(backed.stack.layout.state_json)
    assert record is not None
    assert backend.process.pid not in {child.pid for child in record.children.values()}


def _text(envelope):
    return canonical_json.dumps(envelope).decode()


def test_a_backend_that_stands_still_delays_and_loses_nothing(backed, backend):
    go_away_under_load(backed, backend, SHORT_S)


@pytest.mark.faults
def test_a_backend_that_is_away_for_a_minute_loses_nothing(backed, backend):
    go_away_under_load(backed, backend, LONG_S)


def test_a_rotation_under_load_needs_no_downtime_and_old_licences_verify(backed, successor):
    root = DevelopmentKeyFile(b"r" * 32, b"w" * 32)
    add_root(backed.local["postgres_dsn"], root.public_key)
    with backed.http() as client:
        (first,) = client.get("/v1/keys").json()["items"]
    since = datetime.fromisoformat(first["not_before"]).replace(microsecond=0)
    old = register(base64.b64decode(first["public_key"]), since)
    keys = open_backend(successor.address)
    new = register(keys.public_key, datetime.now(UTC).replace(microsecond=0))
    keys.close()

    def publish(listed):
        listed = key_lists.reissue(listed, datetime.now(UTC))
        with backed.http("operator") as client:
            answer = client.post(
                "/v1/ops/key-lists",
                json={"envelope": json.loads(key_lists.sign(listed, root))},
                headers={"Idempotency-Key": f"list-{listed.version}"},
            )
        assert answer.status_code == 200, answer.text
        return listed

    listed = publish(key_lists.activate(key_lists.add(key_lists.EMPTY, old), old.key_id))
    with Shoppers(backed) as shoppers:
        shoppers.wait_for_deliveries(5, FIRST_S)
        listed = publish(key_lists.add(listed, new))
        listed = publish(key_lists.activate(listed, new.key_id))
        _wait_for_licences_by(backed, new.key_id)
        listed = publish(key_lists.retire(listed, old.key_id))
        shoppers.wait_for_deliveries(5, HEALED_S)
        seen = shoppers.stop()
    backed.judge(seen)
    placings = {status for status in seen.statuses if not status.startswith("201")}
    assert not placings, seen.statuses
    time.sleep(KEYS_TTL_S)  # what a replica remembers of the keys
    states = {}
    for key_id in (old.key_id, new.key_id):
        with backed.http() as client:
            report = client.post("/v1/licences/verify", json={"licence": _licence_by(backed, key_id)}).json()
        states[key_id] = (report["valid"], report["key"]["state"])
    assert states == {old.key_id: (True, "retired"), new.key_id: (True, "active")}


def _wait_for_licences_by(backed, key_id):
    deadline = time.monotonic() + HEALED_S
    while _licence_by(backed, key_id) is None:
        assert time.monotonic() < deadline, f"nothing is signed by {key_id}"
        time.sleep(0.2)


def _licence_by(backed, key_id):
    with psycopg.connect(backed.local["postgres_dsn"]) as owner:
        row = owner.execute(
            "SELECT envelope FROM market.licences WHERE key_id = %s AND status = 'active' LIMIT 1", [key_id]
        ).fetchone()
    return None if row is None else armour(row[0])
