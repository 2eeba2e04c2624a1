"""A real Chromium for tests, driven by its own protocol (CDP) over a pipe: no driver, no port, no download.

Whatever Chromium or Chrome the machine has is started headless in a folder of its own, and ended by its
process group. One reader: commands and answers alternate, events in between are skipped.
"""

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check"),
    *("--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
)


def program() -> str | None:
    """Where the browser is; None where none is installed."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class PageError(Exception):
    """What a script in the page threw."""


class Chromium:
    def __init__(self, folder: Path) -> None:
        found = program()
        assert found is not None, "no Chromium here"
        # Chromium's own sandbox does not start as root; the pages are ours.
        own = (f"--user-data-dir={folder}", *(("--no-sandbox",) if os.geteuid() == 0 else ()), "about:blank")
        # Its end of the pipes are descriptors 3 and 4.
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", found, *FLAGS, *own],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._ids = itertools.count(1)
        self._held = b""

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[self._to.write(data) :]
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer within {ANSWER_TIMEOUT_S} s"
            piece = self._from.read(1_048_576)
            assert piece, "Chromium ended"
            self._held += piece
        whole, _, self._held = self._held.partition(b"\0")
        answer: dict[str, Any] = json.loads(whole)
        return answer

    def open(self, url: str) -> "Page":
        """Open a page and wait until it has loaded."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.go(url)
        return page

    def close(self) -> None:
        for end in (self._to, self._from):
            end.close()  # Chromium ends with its pipe
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)


class Page:
    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def go(self, url: str) -> None:
        failed = self._browser.ask("Page.navigate", self._session, url=url).get("errorText")
        assert failed is None, (url, failed)
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not self.run(f"return {loaded};"):
            assert time.monotonic() < deadline, f"{url} did not load"
            time.sleep(0.05)

    def run(self, body: str, **values: Any) -> Any:
        """Run the body of an async function; ``values`` are its variables, and JSON both ways.

        Raises:
            PageError: the script threw.
        """
        names, given = ", ".join(values), ", ".join(json.dumps(value) for value in values.values())
        answer = self._browser.ask(
            "Runtime.evaluate",
            self._session,
            expression=f"(async ({names}) => {{ {body} }})({given})",
            awaitPromise=True,
            returnByValue=True,
        )
        if thrown := answer.get("exceptionDetails"):
            raise PageError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Chromium]:
    """Run one browser for the block."""
    browser = Chromium(folder)
    try:
        yield browser
    finally:
        browser.close()
