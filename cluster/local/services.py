"""Our own processes as local parts: Stripe simulator, Finance, and the Serve application.

Each is ``python -m <module>``; secrets go by environment, never by arguments, which every user can
read. Decides their health checks: an HTTP GET that must answer 200. Refuses to inherit ``MARKETPLACE_*``
and ``RAY_*`` variables that the user happens to have set: the launcher sets those that count.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.local import certificates, ray_head
from cluster.local.layout import PRIVATE_DIR, Layout
from cluster.local.ports import HOST
from cluster.local.processes import RUN_MARKER
from cluster.local.supervisor import ChildSpec

STRIPE, FINANCE, SERVING = "stripe", "finance", "marketplace"
SERVING_WORDS = "serving completely at"  # in the application's log once every replica has joined


@dataclass(frozen=True, slots=True)
class Modules:
    """What runs as ``python -m``; tests of the launcher itself put stand-ins here."""

    stripe: str = "cluster.local.stripe"
    finance: str = "cluster.finance"
    serving: str = "cluster.serving"


PROBE_TIMEOUT_S = 2.0
HTTP_OK = 200
FINANCE_POOL = 4
# What the order flow listens to; every other event would only cost a delivery.
STRIPE_EVENTS = (
    *("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled"),
    *("payment_intent.amount_capturable_updated", "payment_intent.requires_action"),
    *("checkout.session.expired", "checkout.session.async_payment_failed", "charge.refunded"),
    *("refund.created", "refund.updated", "refund.failed", "charge.refund.updated"),
    *("charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"),
    *("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"),
    "transfer.reversed",
    "account.updated",
)
_DROPPED_PREFIXES = ("MARKETPLACE_", "RAY_", "PG", "AWS_", "WEED_", "FINANCE_", "STRIPE_")


def clean_environment(environ: Mapping[str, str], run_id: str, home: Path) -> dict[str, str]:
    """Return the environment that every child starts from, with the run's marker."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_DROPPED_PREFIXES)}
    kept[RUN_MARKER] = run_id
    kept["PYTHONUNBUFFERED"] = "1"
    # The checkout's packages, wherever the child starts; first the code that runs now.
    code = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [code, kept.get("PYTHONPATH", "")]))
    kept["MARKETPLACE_HOME"] = str(home)
    return kept


def answers(
    port: int, path: str, headers: Mapping[str, str] | None = None, *, tls: ssl.SSLContext | None = None
) -> bool:
    """Whether ``GET path`` on loopback answers 200, by HTTPS if ``tls`` is given."""
    connection = (
        http.client.HTTPSConnection(HOST, port, timeout=PROBE_TIMEOUT_S, context=tls)
        if tls
        else http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT_S)
    )
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status == HTTP_OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def probe(port: int, path: str, tls: ssl.SSLContext | None = None) -> Callable[[], bool]:
    """Return a health check."""
    return lambda: answers(port, path, tls=tls)


def stripe(
    module: str,
    layout: Layout,
    ports: Mapping[str, int],
    secrets: Mapping[str, str],
    env: Mapping[str, str],
    base_url: str,
) -> ChildSpec:
    """Return how to start the Stripe simulator."""
    data = layout.data / "stripe"
    data.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    return ChildSpec(
        name=STRIPE,
        argv=(
            *(sys.executable, "-m", module, "--host", HOST),
            *("--port", str(ports["stripe"]), "--data-dir", str(data)),
        ),
        env={
            **env,
            "STRIPE_SIM_SECRET_KEY": secrets["stripe_secret_key"],
            "STRIPE_SIM_PUBLISHABLE_KEY": secrets["stripe_publishable_key"],
            "STRIPE_SIM_WEBHOOK_SECRET": secrets["stripe_webhook_secret"],
            "STRIPE_SIM_WEBHOOK_URL": f"{base_url}/v1/webhooks/stripe",
            "STRIPE_SIM_WEBHOOK_EVENTS": ",".join(STRIPE_EVENTS),
        },
        cwd=data,
        log_path=layout.log / "stripe.log",
        ready=probe(ports["stripe"], "/healthz"),
    )


def finance(
    module: str,
    layout: Layout,
    ports: Mapping[str, int],
    tls: certificates.LocalCertificates,
    dsn: str,
    env: Mapping[str, str],
) -> ChildSpec:
    """Return how to start Finance: callers show certificates, there is no token."""
    roles = ";".join(f"{uri}={','.join(names)}" for uri, names in certificates.LOCAL_ROLES.items())
    return ChildSpec(
        name=FINANCE,
        argv=(sys.executable, "-m", module),
        env={
            **env,
            "FINANCE_DSN": dsn,
            "FINANCE_TLS_CERTIFICATE": str(tls.server.certificate),
            "FINANCE_TLS_KEY": str(tls.server.key),
            "FINANCE_TLS_CLIENT_CA": str(tls.ca),
            "FINANCE_IDENTITIES": roles,
            "FINANCE_HOST": HOST,
            "FINANCE_PORT": str(ports["finance"]),
            "FINANCE_POOL_MAX": str(FINANCE_POOL),
        },
        cwd=layout.run,
        log_path=layout.log / "finance.log",
        ready=probe(ports["finance"], "/readyz", ssl.create_default_context(cafile=str(tls.ca))),
        stop_timeout_s=15.0,  # it drains for up to ten
    )


def serving(
    module: str, layout: Layout, ports: Mapping[str, int], env: Mapping[str, str], cwd: Path
) -> ChildSpec:
    """Return how to start the Serve application; ``env`` holds Ray's variables."""
    return ChildSpec(
        name=SERVING,
        argv=(sys.executable, "-m", module),
        env={**env, "MARKETPLACE_SETTINGS": str(layout.settings_json)},
        cwd=cwd,
        log_path=layout.log / "marketplace.log",
        ready=probe(ports["http"], "/readyz"),
        ready_timeout_s=300.0,  # 10 s alone; a dozen actors of 0.7 s CPU each on two shared cores
        stop_timeout_s=40.0,  # Serve drains its ingress
        needs=(ray_head.NAME,),
        start_retries=2,  # on a loaded machine Ray ends a driver whose node is slow, without a word
    )
