"""The signing backend goes away under load: buyers go on buying, nothing is lost, and it heals by itself.

The whole marketplace signs through the signing proxy, by mutual TLS, in front of SoftHSM where that is
installed (else a key file): no private key and no PIN is in Ray's processes.
"""

import base64
import importlib.util
import sys
import time
from pathlib import Path

import pytest
from harness import ProxiedStack, Stand, new_home, running
from harness_shoppers import Shoppers

from cluster.local import state
from cluster.local.layout import read_json, write_json
from domain import canonical_json
from domain.dsse import Envelope, signing_key
from domain.licences import open_envelope
from storage.signing.keys import verify

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

    def __init__(self, home: Path, backend: str) -> None:
        super().__init__(home)
        self._backend = backend

    def _prepare(self) -> None:
        super()._prepare()
        settings = read_json(self.layout.settings_json)
        write_json(self.layout.settings_json, settings | {"signing": {"backends": [self._backend]}})


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
def backed(backend):
    with running(BackedStack(new_home(), backend.address)) as stack:
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
