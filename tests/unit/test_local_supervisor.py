"""The supervisor with small real programs: restarts, giving up, dependants, clean ends. No sockets."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.local import ray_head, supervisor
from cluster.local.failures import CancelledStartError, ChildFailedError
from cluster.local.processes import of_session
from cluster.local.supervisor import ChildSpec, Supervisor


def eventually(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def cancelled() -> threading.Event:
    return threading.Event()


@pytest.fixture
def running(cancelled: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(supervisor, "BACKOFF_MAX_S", 0.02)
    monkeypatch.setattr(supervisor, "TICK_S", 0.01)
    made = Supervisor(cancelled, lambda: None)
    yield made
    made.stop_all((), lambda _name: None)
    made.end()


def shell(tmp_path: Path, script: str, name: str = "part", **options: object) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=("/bin/sh", "-c", script),
        env=dict(os.environ),
        cwd=tmp_path,
        log_path=tmp_path / f"{name}.log",
        **options,  # type: ignore[arg-type]
    )


def test_a_first_start_that_ends_early_is_repeated_as_often_as_allowed(running: Supervisor, tmp_path: Path):
    script = "test -e once && touch ready && exec sleep 60; touch once; exit 1"
    running.start(shell(tmp_path, script, ready=(tmp_path / "ready").exists, start_retries=1))
    assert (tmp_path / "once").exists()
    with pytest.raises(ChildFailedError, match="exited with status 7 while starting"):
        running.start(shell(tmp_path, "exit 7", name="other", ready=lambda: False, start_retries=2))


def test_a_crashed_part_is_started_again(running: Supervisor, tmp_path: Path):
    running.start(shell(tmp_path, "exec sleep 60"))
    first = running.identities()["part"]
    os.kill(first.pid, 9)
    eventually(lambda: running.identities().get("part") not in {None, first})
    assert running.failure is None


def test_it_gives_up_after_too_many_crashes(running: Supervisor, tmp_path: Path):
    running.start(shell(tmp_path, "echo broken beyond repair; exit 3"))
    eventually(lambda: running.failure)
    assert "giving up" in str(running.failure)
    assert "broken beyond repair" in str(running.failure)


def test_an_early_exit_is_reported_with_its_log(running: Supervisor, tmp_path: Path):
    with pytest.raises(ChildFailedError, match="exited with status 7 while starting") as failure:
        running.start(shell(tmp_path, "echo why it failed; exit 7", ready=lambda: False))
    assert "why it failed" in str(failure.value)


def test_a_part_that_is_never_ready_is_reported(running: Supervisor, tmp_path: Path):
    with pytest.raises(ChildFailedError, match="not ready within"):
        running.start(shell(tmp_path, "exec sleep 60", ready=lambda: False, ready_timeout_s=0.1))


def test_a_missing_program_names_the_command_that_helps(running: Supervisor, tmp_path: Path):
    spec = ChildSpec("part", ("/no/such/program",), {}, tmp_path, tmp_path / "part.log")
    with pytest.raises(ChildFailedError, match="make dev"):
        running.start(spec)


def test_cancelling_ends_a_wait(running: Supervisor, cancelled: threading.Event, tmp_path: Path):
    threading.Timer(0.1, cancelled.set).start()
    with pytest.raises(CancelledStartError):
        running.start(shell(tmp_path, "exec sleep 60", ready=lambda: False))


def test_nothing_starts_once_it_stops(running: Supervisor, tmp_path: Path):
    running.stop_all((), lambda _name: None)
    with pytest.raises(CancelledStartError):
        running.start(shell(tmp_path, "exec sleep 60"))


def test_stop_follows_the_order_and_leaves_no_grandchild(running: Supervisor, tmp_path: Path):
    running.start(shell(tmp_path, "exec sleep 60", name="first"))
    running.start(shell(tmp_path, "sleep 61 & trap '' TERM; wait", name="second", stop_timeout_s=0.2))
    leader = running.identities()["second"].pid
    stopped: list[str] = []
    running.stop_all(("first", "second"), stopped.append)
    assert stopped == ["first", "second"]
    assert of_session(leader) == []


def test_a_dependant_is_restarted_with_what_it_needs(running: Supervisor, tmp_path: Path):
    running.start(shell(tmp_path, "exec sleep 60", name="base"))
    running.start(shell(tmp_path, "exec sleep 60", name="on-top", needs=("base",)))
    before = running.identities()
    os.kill(before["base"].pid, 9)
    for name in ("base", "on-top"):
        eventually(lambda name=name: running.identities().get(name) not in {None, before[name]})


def test_children_die_with_the_launcher(tmp_path: Path):
    script = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from cluster.local.supervisor import ChildSpec, Supervisor\n"
        "s = Supervisor(threading.Event(), lambda: None)\n"
        "p = Path(sys.argv[1])\n"
        "s.start(ChildSpec('x', ('/bin/sleep', '60'), {}, p, p / 'x.log'))\n"
        "print(s.identities()['x'].pid, flush=True)\nsys.stdin.read()\n"
    )
    root = Path(supervisor.__file__).parents[2]
    launcher = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    child = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    launcher.stdin.close()
    launcher.stdout.close()
    eventually(lambda: of_session(child) == [])


def test_haproxys_own_pages_are_kept_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_head, "haproxy_program", lambda: Path("/bin/cat"))
    ray_head.prepare(tmp_path)
    config = tmp_path / "haproxy" / "a.cfg"
    served = (
        "    bind :9101\n    bind 127.0.0.1:80\n  bind *:8404\n    errorfile 503 /x/500.http\n"
        '    http-request return status 404 content-type text/plain lf-string "none"\n'
    )
    config.write_text(served, encoding="utf-8")
    # `cat -- -f` would fail: only the rewriting is looked at, not what the stand-in does afterwards.
    subprocess.run([tmp_path / "haproxy.sh", "-f", config], check=False, capture_output=True)
    assert config.read_text(encoding="utf-8") == (
        "    bind 127.0.0.1:9101\n    bind 127.0.0.1:80\n  bind 127.0.0.1:8404\n"
        f"    errorfile 503 {tmp_path}/unavailable.http\n"
        "    http-request deny deny_status 503\n"
    )
    head, _, body = (tmp_path / "unavailable.http").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 2" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    assert json.loads(body)["code"] == "ingress_unavailable"
