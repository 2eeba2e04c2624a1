"""A proxy before the Stripe simulator that writes down each request as it was on the wire."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx


class Recorded(NamedTuple):
    """One request; ``form`` is its query, or the form in its body."""

    method: str
    path: str
    form: str
    authorization: str


@dataclass
class StripeRecorder:
    """Forwards everything to ``upstream``."""

    upstream: str
    requests: list[Recorded] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> StripeRecorder:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def do_GET(self) -> None:
                self._forward(b"")

            def do_POST(self) -> None:
                self._forward(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _forward(self, body: bytes) -> None:
                path, _, query = self.path.partition("?")
                recorder.requests.append(
                    Recorded(self.command, path, body.decode() or query, self.headers["Authorization"])
                )
                kept = ("authorization", "content-type", "idempotency-key", "stripe-version")
                headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
                answer = httpx.request(
                    self.command, recorder.upstream + self.path, content=body, headers=headers, timeout=20
                )
                self.send_response(answer.status_code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def close(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
