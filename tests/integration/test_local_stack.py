"""The launcher with real Postgres, SeaweedFS, Finance and Ray; the rest are stand-ins of tests/fakes."""

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest

from cluster.local import processes, seaweed, services, state
from cluster.local.failures import AlreadyRunningError, CancelledStartError, ChildFailedError, PreflightError
from cluster.local.launcher import Stack, end_leftovers
from cluster.local.layout import Layout, remove_tree

pytestmark = pytest.mark.integration

MODULES = services.Modules(stripe="tests.fakes.local_stripe", serving="tests.fakes.local_serving")
ROOT = Path(__file__).resolve().parents[2]


def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("a home with spaces")
    yield made
    remove_tree(Layout(made).outside)  # used when root's temporary directory is closed to Postgres' user


@pytest.fixture
def stack(home: Path) -> Iterator[Stack]:
    made = Stack(home, application=False, modules=MODULES)
    made.start()
    yield made
    made.stop()


def finance_answers(stack: Stack) -> bool:
    trusting = ssl.create_default_context(cafile=stack.local["finance_reader"]["ca"])
    return services.answers(stack._ports["finance"], "/readyz", tls=trusting)


def run_id(home: Path) -> str:
    record = state.read_record(Layout(home).state_json)
    assert record is not None
    return record.run_id


def s3(local: dict[str, Any]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=local["s3"]["endpoint"],
        region_name=seaweed.REGION,
        aws_access_key_id=local["s3"]["access_key"],
        aws_secret_access_key=local["s3"]["secret_key"],
    )


def test_the_services_run_privately_and_as_promised(stack: Stack, home: Path):
    layout, local = stack.layout, json.loads(stack.layout.local_json.read_text(encoding="utf-8"))
    assert local == stack.local
    for path in (layout.local_json, layout.settings_json, layout.state_json, layout.credentials_json):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with psycopg.connect(local["postgres_dsn"]) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("fsync", "data_checksums", "listen_addresses", "unix_socket_directories")
        }
        assert shown == {
            "fsync": "on",
            "data_checksums": "on",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
    settings = json.loads(layout.settings_json.read_text(encoding="utf-8"))
    with psycopg.connect(settings["postgres_dsn"]) as connection:
        row = connection.execute("SELECT current_user, usesuper FROM pg_user WHERE usename = current_user")
        assert row.fetchone() == ("market_app", False)
    client = s3(local)
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} >= set(seaweed.BUCKETS.values())
    for bucket in seaweed.LOCKED:
        lock = client.get_object_lock_configuration(Bucket=bucket)
        assert lock["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    assert finance_answers(stack)
    # Without a certificate Finance shows nothing but how it is.
    reader = local["finance_reader"]
    trusting = ssl.create_default_context(cafile=reader["ca"])
    balance = local["finance_url"] + "/v1/trial-balance?currency=USD"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(balance, timeout=5, context=trusting)
    refusal.value.close()
    assert refusal.value.code == 401
    trusting.load_cert_chain(reader["certificate"], reader["key"])
    with urllib.request.urlopen(balance, timeout=5, context=trusting) as answer:
        assert json.load(answer)["sum_minor"] == 0


def test_wrong_passwords_and_anonymous_deletes_are_refused(stack: Stack):
    local = stack.local
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(local["postgres_dsn"].replace("market:", "market:x", 1), connect_timeout=5)
    s3(local).put_object(Bucket="uploads", Key="kept", Body=b"kept")
    filer = f"http://127.0.0.1:{stack._ports['weed_filer']}/buckets/uploads/kept"
    request = urllib.request.Request(filer, method="DELETE")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=5)
    refusal.value.close()
    assert refusal.value.code in {401, 403}
    assert s3(local).get_object(Bucket="uploads", Key="kept")["Body"].read() == b"kept"


def test_a_second_start_is_refused_while_the_first_runs(stack: Stack, home: Path):
    with pytest.raises(AlreadyRunningError):
        Stack(home, application=False, modules=MODULES).start()
    assert finance_answers(stack)
    assert stack.layout.local_json.exists()


def test_crashed_parts_come_back(stack: Stack):
    before = dict(stack.local["pids"])
    os.kill(before["finance"], signal.SIGKILL)
    os.kill(before["postgres"], signal.SIGKILL)
    eventually(lambda: stack.local["pids"].get("finance", before["finance"]) != before["finance"])
    eventually(lambda: finance_answers(stack))
    written = json.loads(stack.layout.local_json.read_text(encoding="utf-8"))
    assert written["pids"]["finance"] != before["finance"]
    assert stack.failure is None


def test_a_warm_restart_keeps_data_tokens_and_ports_and_leaves_nothing(home: Path):
    stack = Stack(home, application=False, modules=MODULES)
    stack.start()
    first, marker = stack.local, run_id(home)
    with psycopg.connect(first["postgres_dsn"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (x int)")
    initialised = (stack.layout.data / "postgres").exists() or stack.layout.outside.exists()
    assert initialised
    stack.stop()
    assert processes.of_run(marker) == []
    assert not stack.layout.local_json.exists()
    again = Stack(home, application=False, modules=MODULES)
    again.start()
    try:
        second = again.local
        assert {**second, "pids": 0} == {**first, "pids": 0}
        with psycopg.connect(second["postgres_dsn"]) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    finally:
        again.stop()


def test_a_failing_part_stops_all_and_shows_its_log(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ILV_FAKE", "exit")
    stack = Stack(home, application=False, modules=MODULES)
    with pytest.raises(ChildFailedError, match="the stand-in was told to fail"):
        stack.start()
    record = state.read_record(stack.layout.state_json)
    assert record is not None
    assert record.status == "failed"
    assert processes.of_run(record.run_id) == []
    assert not state.RunLock.held(stack.layout.lock)


@pytest.mark.parametrize("step", ["postgres", "seaweedfs", "stripe", "migrations", "finance"])
def test_an_interrupted_start_leaves_nothing(home: Path, step: str):
    stack = Stack(home, application=False, modules=MODULES)
    marker = ""

    def interrupt(news: Any) -> None:
        nonlocal marker
        if news.name == step:
            marker = marker or run_id(home)
            stack.cancel()

    with pytest.raises(CancelledStartError):
        stack.start(interrupt)
    assert marker
    assert processes.of_run(marker) == []
    assert not state.RunLock.held(stack.layout.lock)


def test_a_taken_fixed_port_is_a_clear_failure(home: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MARKETPLACE_PORT", str(port))
        with pytest.raises(PreflightError, match=f"MARKETPLACE_PORT={port} is taken"):
            Stack(home, application=False, modules=MODULES).start()


def test_what_a_killed_launcher_leaves_is_ended_and_the_next_start_works(home: Path):
    script = (
        "import sys; from pathlib import Path; from cluster.local.launcher import Stack;"
        "from cluster.local.services import Modules;"
        "s = Stack(Path(sys.argv[1]), application=False, modules=Modules(stripe='tests.fakes.local_stripe'));"
        "s.start(); print('ready', flush=True); s.wait()"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script, str(home)], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert launcher.stdout is not None
    with launcher.stdout as output:
        assert output.readline() == b"ready\n"
        marker = run_id(home)
        children = state.read_record(Layout(home).state_json).children  # type: ignore[union-attr]
        launcher.kill()
        launcher.wait()
    assert len(children) == 4
    end_leftovers(Layout(home))
    assert processes.of_run(marker) == []
    assert not [name for name, process in children.items() if process.alive()]
    with Stack(home, application=False, modules=MODULES) as stack:
        assert finance_answers(stack)


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_the_whole_stack_serves_through_haproxy_and_ends_clean(home: Path):
    stack = Stack(home, modules=MODULES)
    stack.start()
    try:
        marker, temporary = run_id(home), stack._temporary
        with urllib.request.urlopen(stack.local["base_url"] + "/readyz", timeout=10) as answer:
            assert answer.status == 200
        listening = {
            connection.laddr.port: connection.laddr.ip
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        for name in ("http", "haproxy_metrics", "haproxy_stats", "ray_dashboard", "ray_gcs"):
            assert listening[stack._ports[name]] in {"127.0.0.1", "::ffff:127.0.0.1"}
        jobs = urllib.request.Request(stack.local["ray_dashboard_url"] + "/api/jobs/")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(jobs, timeout=10)
        refusal.value.close()
        assert refusal.value.code == 401
    finally:
        stack.stop()
    assert processes.of_run(marker) == []
    assert not temporary.exists()
