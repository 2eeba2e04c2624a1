"""``marketplace up`` as a user meets it: signals, messages, exit statuses. Services only, no Ray."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import processes, state
from cluster.local.layout import Layout, remove_tree

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
# The command line itself, with stand-ins for the parts that are not under test.
UP = (
    "import functools, cluster.cli as cli; from cluster.local.services import Modules;"
    "cli.Stack = functools.partial(cli.Stack, application=False,"
    " modules=Modules(stripe='tests.fakes.local_stripe')); {also}cli.main()"
)
SERVE = UP.format(also="")
DETACH = UP.format(also=f"cli.LAUNCHER = ('-c', {SERVE!r}, 'up'); ")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("cli home")
    yield made
    remove_tree(Layout(made).outside)


def launch(home: Path, *words: str, code: str = SERVE, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *words],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MARKETPLACE_HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    pytest.fail(f"the output ended without {text!r}:\n{seen}")


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_serving_stops_everything(home: Path, number: signal.Signals):
    process = launch(home, "up")
    read_until(process, "Serving until Ctrl-C.")
    record = state.read_record(Layout(home).state_json)
    assert record is not None
    process.send_signal(number)
    status, rest = finish(process)
    assert (status, rest) == (0, "Stopping…\nEverything has been stopped.\n")
    assert processes.of_run(record.run_id) == []


@pytest.mark.parametrize("after", ["preflight", "stripe", "seaweedfs"])
def test_a_signal_while_starting_gives_one_message_and_130(home: Path, after: str):
    process = launch(home, "up")
    read_until(process, after)
    process.send_signal(signal.SIGINT)
    status, rest = finish(process)
    assert status == 130
    assert rest.endswith("Interrupted while starting: everything has been stopped.\n")
    assert "Traceback" not in rest
    assert not state.RunLock.held(Layout(home).lock)


def test_a_failure_is_one_message_with_the_log(home: Path):
    process = launch(home, "up", ILV_FAKE="exit")
    status, output = finish(process)
    assert status == 1
    assert "error: stripe exited with status 1 while starting." in output
    assert "the stand-in was told to fail" in output
    assert "stripe.log" in output
    assert "Traceback" not in output


def test_down_stops_a_running_launcher_and_says_when_there_is_none(home: Path):
    serving = launch(home, "up")
    read_until(serving, "Serving until Ctrl-C.")
    assert finish(launch(home, "down")) == (0, "Stopping…\nEverything has been stopped.\n")
    assert finish(serving)[0] == 0
    assert finish(launch(home, "down")) == (0, "Nothing runs here.\n")
    assert finish(launch(home, "status"))[0] == 1


def test_migrate_without_a_stack_says_what_to_do(home: Path):
    status, output = finish(launch(home, "migrate"))
    assert status == 1
    assert "make up" in output


def test_clean_asks_for_confirmation(home: Path):
    status, output = finish(launch(home, "clean"))
    assert status == 1
    assert "--yes" in output
    assert (home / "var").exists()


def test_detached_it_returns_once_ready_and_down_stops_it(home: Path):
    status, output = finish(launch(home, "up", "--detach", code=DETACH))
    assert status == 0, output
    assert "make down" in output
    assert state.RunLock.held(Layout(home).lock)
    assert finish(launch(home, "down"))[0] == 0
    assert not state.RunLock.held(Layout(home).lock)


def test_detached_a_failure_is_told_by_the_command_that_returns(home: Path):
    status, output = finish(launch(home, "up", "--detach", code=DETACH, ILV_FAKE="exit"))
    assert status == 1
    assert "error: stripe exited with status 1 while starting." in output
    assert "the stand-in was told to fail" in output
