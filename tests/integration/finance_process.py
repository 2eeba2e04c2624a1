"""Finance as a real process for tests: started on a free port, stopped by its own pid."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from postgres_fixture import free_port

from cluster.local.certificates import LocalCertificates

TOKEN = "finance-token-for-tests"
START_TIMEOUT_S = 30.0
REPO = Path(__file__).resolve().parents[2]


@dataclass
class FinanceProcess:
    """``python -m cluster.finance`` with ``dsn``; its log is kept for failure messages.

    With ``tls`` it knows its callers by certificate (``roles`` by identity), and not by the token.
    """

    dsn: str
    log_path: Path
    tls: LocalCertificates | None = None
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def client(self, **options: object) -> httpx.Client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=15, **options)

    def start(self, wait_for: str = "/readyz") -> "FinanceProcess":
        environment = {
            "PATH": os.environ["PATH"],
            "FINANCE_DSN": self.dsn,
            "FINANCE_PORT": str(self.port),
            **self._identification(),
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cluster.finance"],
                cwd=REPO,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._answers(wait_for), self.log_path, timeout_s=START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
            raise

    def _identification(self) -> dict[str, str]:
        if self.tls is None:
            return {"FINANCE_TOKEN": TOKEN}
        return {
            "FINANCE_TLS_CERTIFICATE": str(self.tls.server.certificate),
            "FINANCE_TLS_KEY": str(self.tls.server.key),
            "FINANCE_TLS_CLIENT_CA": str(self.tls.ca),
            "FINANCE_IDENTITIES": ";".join(f"{uri}={','.join(roles)}" for uri, roles in self.roles.items()),
        }

    def _answers(self, path: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()
        try:
            trusted = True if self.tls is None else ssl.create_default_context(cafile=str(self.tls.ca))
            return httpx.get(self.url + path, timeout=5, verify=trusted).status_code == 200
        except httpx.TransportError:
            return False


def wait_until(condition, log_path: Path | None = None, *, timeout_s: float = 15.0) -> None:
    """Poll ``condition`` until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, log_path.read_text() if log_path else "timed out"
        time.sleep(0.03)


def entry(key: str, amount_minor: int = 1999, **changes: object) -> dict[str, object]:
    """A balanced sale of 1999 USD cents."""
    return {
        "entry_key": key,
        "currency": "USD",
        "occurred_at": "2026-11-24T14:00:00Z",
        "description": "Sale",
        "postings": [
            {"account": "stripe:clearing", "amount_minor": amount_minor},
            {"account": "seller:sel_1:payable", "amount_minor": 199 - amount_minor},
            {"account": "platform:fees", "amount_minor": -199},
        ],
    } | changes
