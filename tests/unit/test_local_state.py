"""The launcher's files: credentials, records, locks, settings; no process of ours is started."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.local import certificates, ports, postgres, processes, services, settings_file, state
from cluster.local.failures import AlreadyRunningError, ChildFailedError, PreflightError
from cluster.local.launcher import PORT_NAMES
from cluster.local.layout import Layout, read_json, write_json, write_private
from deployments.settings import parse_settings
from storage.finance.client_tls import ClientTlsFiles


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    home = tmp_path / "a home with spaces"
    home.mkdir()
    made = Layout(home)
    made.create()
    return made


def test_credentials_survive_and_are_private(layout: Layout):
    first = state.load_credentials(layout)
    second = state.load_credentials(layout)
    assert first.tokens == second.tokens
    assert first.secrets == second.secrets
    assert len(set(first.tokens.values())) == len(state.ROLES)
    assert stat.S_IMODE(layout.credentials_json.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.keys.stat().st_mode) == 0o700


def test_no_secret_shows_in_a_repr(layout: Layout):
    credentials = state.load_credentials(layout)
    for secret in (*credentials.secrets.values(), *credentials.tokens.values()):
        assert secret not in repr(credentials)


def test_damaged_credentials_are_refused_not_replaced(layout: Layout):
    state.load_credentials(layout)
    layout.credentials_json.write_text("{", encoding="utf-8")
    with pytest.raises(PreflightError, match="damaged"):
        state.load_credentials(layout)
    assert layout.credentials_json.read_text(encoding="utf-8") == "{"


def test_write_private_replaces_whole_files_and_leaves_no_temporary(tmp_path: Path):
    target = tmp_path / "file"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o644)
    write_private(target, "new")
    assert target.read_text(encoding="utf-8") == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_place_of_var_is_a_clear_refusal(tmp_path: Path):
    (tmp_path / "var").write_text("", encoding="utf-8")
    with pytest.raises(PreflightError, match="MARKETPLACE_HOME"):
        Layout(tmp_path).create()


def test_the_lock_excludes_and_is_seen(layout: Layout):
    lock, other = state.RunLock(layout.lock), state.RunLock(layout.lock)
    assert not state.RunLock.held(layout.lock)
    lock.acquire()
    assert state.RunLock.held(layout.lock)
    with pytest.raises(AlreadyRunningError, match="make down"):
        other.acquire()
    lock.release()
    other.acquire()
    other.release()


def test_settings_are_understood_and_hold_no_token(layout: Layout):
    credentials = state.load_credentials(layout)
    numbers = {name: 20_000 + index for index, name in enumerate(PORT_NAMES)}
    tls = certificates.ensure(layout.finance_certificates, ["127.0.0.1"], datetime.now(UTC))
    document = settings_file.settings(layout, credentials, numbers, tls)
    settings = parse_settings(json.loads(json.dumps(document)))
    text = json.dumps(document)
    assert all(token not in text for token in credentials.tokens.values())
    assert credentials.secrets["postgres_market"] not in text
    buyer = hashlib.sha256(credentials.tokens["buyer"].encode()).hexdigest()
    assert {(t.sha256, t.role) for t in settings.tokens} >= {(buyer, "buyer")}
    operators = [t.principal_id for t in settings.tokens if t.role == "operator"]
    assert len(set(operators)) == 2
    assert settings.finance.url.startswith("https://")
    assert settings.finance.poster == ClientTlsFiles(tls.ca, tls.ingress.certificate, tls.ingress.key)
    office = tls.back_office
    assert settings.finance.back_office == ClientTlsFiles(tls.ca, office.certificate, office.key)


def test_the_local_document_keeps_its_contract(layout: Layout):
    credentials = state.load_credentials(layout)
    numbers = {name: 20_000 + index for index, name in enumerate(PORT_NAMES)}
    tls = certificates.ensure(layout.finance_certificates, ["127.0.0.1"], datetime.now(UTC))
    local = settings_file.local_document(credentials, numbers, tls, {"launcher": 1})
    assert set(local) == {
        *("base_url", "ops_url", "ray_dashboard_url", "postgres_dsn", "s3", "kafka", "stripe"),
        *("finance_url", "finance_reader", "tokens", "pids"),
    }
    assert local["kafka"] == {"bootstrap": None}
    assert set(local["tokens"]) == {"buyer", "seller", "operator", "operator2", "fraud", "auditor"}
    assert {"endpoint", "access_key", "secret_key", "buckets"} <= set(local["s3"])
    assert {"api_base", "secret_key", "webhook_secret"} <= set(local["stripe"])


@pytest.mark.parametrize("damage", ["", "[]", '{"run_id": 1}'])
def test_a_damaged_record_reads_as_none(layout: Layout, damage: str):
    layout.state_json.write_text(damage, encoding="utf-8")
    assert state.read_record(layout.state_json) is None


def test_a_record_round_trips(layout: Layout):
    record = state.RunRecord(
        "run", processes.ProcessId(7, 8), "/tmp/ilv-x", children={"ray": processes.ProcessId(9, 10)}
    )
    record.write(layout.state_json)
    assert state.read_record(layout.state_json) == record


def test_a_reused_pid_is_not_touched(layout: Layout):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        mine = processes.identify(bystander.pid)
        assert mine is not None
        stale = processes.ProcessId(mine.pid, mine.start_ticks - 1)
        assert not stale.alive()
        processes.send(stale, signal.SIGKILL)
        record = state.RunRecord("no-such-run", stale, "", children={"postgres": stale})
        assert state.sweep(record, (), frozenset()) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def orphan(marker_free_seconds: int = 60) -> tuple[processes.ProcessId, int]:
    """Start a session leader that leaves a member behind; returns the dead leader and the member's pid."""
    script = f"sleep {marker_free_seconds} >/dev/null 2>&1 & echo $!; read _"
    leader = subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    known = processes.identify(leader.pid)
    assert known is not None
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    leader.communicate("\n")
    return known, member


def test_what_a_dead_child_left_in_its_session_is_ended():
    leader, member = orphan()
    record = state.RunRecord("no-such-run", leader, "", children={"ray": leader})
    assert state.sweep(record, (), frozenset()) == 1
    assert processes.identify(member) is None


def test_a_record_of_an_earlier_boot_ends_nothing():
    leader, member = orphan()
    record = state.RunRecord("no-such-run", leader, "", children={"ray": leader}, boot_id="another")
    assert state.sweep(record, (), frozenset()) == 0
    assert processes.identify(member) is not None
    os.kill(member, signal.SIGKILL)


def test_a_marked_process_is_found_and_ended():
    run_id = f"unit-{os.getpid()}-{time.monotonic_ns()}"
    marked = subprocess.Popen(["sleep", "60"], env={**os.environ, processes.RUN_MARKER: run_id})
    deadline = time.monotonic() + 5
    while not (found := processes.of_run(run_id)) and time.monotonic() < deadline:
        time.sleep(0.01)  # between fork and exec the environment is still ours
    assert [process.pid for process in found] == [marked.pid]
    assert processes.end_all(lambda: processes.of_run(run_id)) == 1
    assert marked.wait(5) == -signal.SIGTERM


def test_a_shell_in_the_runs_folder_is_left_alone(tmp_path: Path):
    bystander = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        assert processes.of_run("none", (tmp_path,), frozenset({"/usr/bin/postgres"})) == []
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("value", ["0", "65536", "http", "-1", "8 0"])
def test_a_nonsensical_fixed_port_is_refused(value: str):
    with pytest.raises(PreflightError, match="not a port number"):
        ports.fixed_port({"MARKETPLACE_PORT": value}, "MARKETPLACE_PORT")


def test_an_absent_fixed_port_is_none():
    assert ports.fixed_port({"MARKETPLACE_PORT": " "}, "MARKETPLACE_PORT") is None


def test_ports_are_distinct_and_kept_when_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports, "is_free", lambda port: port != 20_001)
    chosen = ports.allot(("http", "kept", "taken", "new"), {"kept": 20_000, "taken": 20_001}, {"http": 8080})
    assert chosen["http"] == 8080
    assert chosen["kept"] == 20_000
    assert chosen["taken"] != 20_001
    assert len(set(chosen.values())) == 4


def test_no_free_port_is_a_clear_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    with pytest.raises(PreflightError, match="No free TCP port"):
        ports.pick(set())


def test_children_do_not_inherit_foreign_settings():
    foreign = {"RAY_ADDRESS": "elsewhere", "MARKETPLACE_PORT": "1", "PGPASSWORD": "x"}
    environment = services.clean_environment({"PATH": "/bin", **foreign}, "r", Path("/h"))
    assert environment["PATH"] == "/bin"
    assert environment[processes.RUN_MARKER] == "r"
    assert not set(foreign) & set(environment)


def test_reachability_follows_the_other_users_bits(tmp_path: Path):
    open_folder, closed = tmp_path / "open", tmp_path / "closed"
    open_folder.mkdir(mode=0o711)
    closed.mkdir(mode=0o700)
    stranger = (65_534, 65_534)
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            assert not postgres.reachable(open_folder / "data", stranger)
            break
    else:
        assert postgres.reachable(open_folder / "data", stranger)
    assert not postgres.reachable(closed / "data", stranger)
    assert postgres.reachable(closed / "data", None)


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path):
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)), encoding="utf-8")
    text = str(ChildFailedError("x failed.", log))
    assert "line 99" in text
    assert "line 50" not in text
    assert str(log) in text


def test_read_json_of_nothing_is_empty(tmp_path: Path):
    assert read_json(tmp_path / "absent") == {}
    write_json(tmp_path / "list", [1])
    assert read_json(tmp_path / "list") == {}
