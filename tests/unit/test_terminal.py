"""Progress of downloads: a bar on a terminal, and nothing that would spoil a pipe, a log or JSON."""

import os
import pty
import subprocess
import sys

import pytest

from cluster.client import ClientError
from cluster.terminal import Terminal
from cluster.verification import FAILED, OK, Check

SCRIPT = """
import sys, time
from cluster.terminal import command
with command(as_json="--json" in sys.argv) as terminal:
    with terminal.download("payload") as on_bytes:
        for done in range(0, 5_000_001, 1_000_000):
            on_bytes(done, 5_000_000)
            time.sleep(0.15)
    terminal.result({"ok": True})
"""


def run(*arguments, on_terminal):
    """Returns standard output and standard error."""
    read_end, write_end = pty.openpty() if on_terminal else os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=write_end,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "100"},
        check=True,
    )
    os.close(write_end)
    told = b""
    try:
        while block := os.read(read_end, 65_536):
            told += block
    except OSError:  # the other side of a terminal is closed
        pass
    os.close(read_end)
    return done.stdout.decode(), told.decode()


def test_on_a_terminal_a_bar_tells_how_much_has_come():
    out, err = run(on_terminal=True)
    assert out == ""
    assert "payload" in err
    assert "5.0/5.0 MB" in err


@pytest.mark.parametrize("on_terminal", [True, False])
def test_with_json_there_is_the_object_alone(on_terminal):
    assert run("--json", on_terminal=on_terminal) == ('{"ok": true}\n', "")


def test_in_a_pipe_there_is_no_bar():
    assert run(on_terminal=False) == ("", "")


def test_nobodys_words_move_the_cursor(capsys):
    """A seller's reason, a server's finding: escape sequences would rewrite what stands above."""
    hostile = "fine\x1b[2K\x1b[1A\r\x9b2Jdone"
    terminal = Terminal(as_json=False)
    terminal.say(hostile)
    terminal.note(hostile)
    terminal.checks([Check("release", OK, hostile), Check("release", FAILED, "two\nlines" + hostile)])
    terminal.error(ClientError(hostile, "code"))
    told = "".join(capsys.readouterr())
    assert told.count("fine") == told.count("done") == 5
    assert {one for one in told if not one.isprintable()} == {"\n"}
    assert "two lines" in told


def test_what_failed_is_shown_with_its_code(capsys):
    terminal = Terminal(as_json=False)
    terminal.checks([Check("revocation list", FAILED, "It is old.", "revocations_rolled_back")])
    assert capsys.readouterr().out == "✗ revocation list        It is old. [revocations_rolled_back]\n"
