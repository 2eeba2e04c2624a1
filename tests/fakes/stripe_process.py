"""The Stripe simulator as a real process for tests, and an endpoint that receives its webhooks.

The endpoint is a thread of the test's own process that answers with the statuses it was given, then 200.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import stripe

SECRET_KEY = "sk_test_simulator_0001"
PUBLISHABLE_KEY = "pk_test_simulator_0001"
WEBHOOK_SECRET = "whsec_simulator_0001"
START_TIMEOUT_S = 30.0
REPO = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Poll ``condition`` until it is true, and return what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


@dataclass
class WebhookInbox:
    """What came in: (headers, body), and the statuses to answer with first."""

    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: deque[int] = field(default_factory=deque)
    port: int = field(default_factory=free_port)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhooks"

    def start(self) -> "WebhookInbox":
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5  # ends the thread of an idle connection, so that close() does not wait for it

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = inbox.answers.popleft() if inbox.answers else 200
                inbox.received.append((dict(self.headers), body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def events(self, secret: str = WEBHOOK_SECRET) -> list[stripe.Event]:
        """Verify and parse everything received, as a shop would."""
        return [
            stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
            for headers, body in list(self.received)
        ]

    def types(self) -> list[str]:
        return [event.type for event in self.events()]


@dataclass
class StripeProcess:
    """``python -m cluster.local.stripe``; its log is kept for failure messages."""

    data_dir: Path
    webhook_url: str | None = None
    webhook_events: str | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".log")

    def start(self) -> "StripeProcess":
        environment = {
            "PATH": os.environ["PATH"],
            "STRIPE_SIM_SECRET_KEY": SECRET_KEY,
            "STRIPE_SIM_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "STRIPE_SIM_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        if self.webhook_url is not None:
            environment["STRIPE_SIM_WEBHOOK_URL"] = self.webhook_url
        if self.webhook_events is not None:
            environment["STRIPE_SIM_WEBHOOK_EVENTS"] = self.webhook_events
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cluster.local.stripe", *place],
                cwd=REPO,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def client(self, key: str = SECRET_KEY) -> stripe.StripeClient:
        return stripe.StripeClient(key, base_addresses={"api": self.url}, max_network_retries=0)

    def http(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {SECRET_KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=15, **options)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
