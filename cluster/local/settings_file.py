"""The two documents that a running stack writes: settings for the application, contract for tools.

``var/run/settings.json`` is what ``deployments.settings`` reads: it has the application's own database
role and only hashes of the bearer tokens. ``var/local.json`` is the contract with outside tools
(docs/architecture): addresses and credentials for whoever may read this user's files. Both have mode
0600. Refuses to put the database owner's password into the application's settings.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.local import postgres, ray_head, seaweed
from cluster.local.certificates import KeyPairFiles, LocalCertificates
from cluster.local.layout import Layout
from cluster.local.ports import HOST
from cluster.local.state import Credentials

NAMESPACE = "marketplace"
# operator2 holds the same role as operator under another name: two people for multi-signature.
_PRINCIPALS = {
    "buyer": ("buyer", "usr_local_buyer"),
    "seller": ("seller", "usr_local_seller"),
    "operator": ("operator", "usr_local_operator"),
    "operator2": ("operator", "usr_local_operator2"),
    "fraud": ("fraud", "usr_local_fraud"),
    "auditor": ("auditor", "usr_local_auditor"),
}


def base_url(ports: Mapping[str, int]) -> str:
    """Return the address that buyers' links start with."""
    return f"http://{HOST}:{ports['http']}"


def settings(
    layout: Layout, credentials: Credentials, ports: Mapping[str, int], tls: LocalCertificates
) -> dict[str, Any]:
    """Return the application's settings document."""
    secrets = credentials.secrets
    return {
        "postgres_dsn": postgres.dsn("market_app", secrets["postgres_market_app"], ports["postgres"]),
        "s3": {**_s3(secrets, ports), "region": seaweed.REGION},
        "stripe": {
            "api_base": _stripe_base(ports),
            "secret_key": secrets["stripe_secret_key"],
            "publishable_key": secrets["stripe_publishable_key"],
            "webhook_secrets": [secrets["stripe_webhook_secret"]],
        },
        "finance": {
            "url": _finance_url(ports),
            "poster": _caller(tls.ca, tls.ingress),
            "back_office": _caller(tls.ca, tls.back_office),
        },
        "signing": {"backends": [f"file:{layout.signing_key}"]},
        "http": {"host": HOST, "port": ports["http"], "base_url": base_url(ports)},
        "ray": {"address": ray_head.address(ports), "namespace": NAMESPACE},
        "tokens": [
            {"sha256": hashlib.sha256(token.encode()).hexdigest(), "role": role, "principal_id": principal}
            for name, token in credentials.tokens.items()
            for role, principal in [_PRINCIPALS[name]]
        ],
        "log_level": "INFO",
        # Ray removes its workers' own logs with its temporary directory; these outlive a stop.
        "log_file": str(layout.log / "application.log"),
    }


def local_document(
    credentials: Credentials, ports: Mapping[str, int], tls: LocalCertificates, pids: Mapping[str, int]
) -> dict[str, Any]:
    """Return ``var/local.json``."""
    secrets = credentials.secrets
    return {
        "base_url": base_url(ports),
        "ops_url": base_url(ports),  # operators use /v1/ops below it, and the Ray dashboard
        "ray_dashboard_url": ray_head.dashboard_url(ports),
        "postgres_dsn": postgres.dsn(postgres.OWNER, secrets["postgres_market"], ports["postgres"]),
        "s3": _s3(secrets, ports),
        "kafka": {"bootstrap": None},
        "stripe": {
            "api_base": _stripe_base(ports),
            "secret_key": secrets["stripe_secret_key"],
            "publishable_key": secrets["stripe_publishable_key"],
            "webhook_secret": secrets["stripe_webhook_secret"],
        },
        "finance_url": _finance_url(ports),
        "finance_reader": _caller(tls.ca, tls.reader),
        "tokens": dict(credentials.tokens),
        "pids": dict(pids),
    }


def _s3(secrets: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, Any]:
    return {
        "endpoint": seaweed.endpoint(ports),
        "access_key": secrets["s3_access_key"],
        "secret_key": secrets["s3_secret_key"],
        "buckets": dict(seaweed.BUCKETS),
    }


def _finance_url(ports: Mapping[str, int]) -> str:
    return f"https://{HOST}:{ports['finance']}"


def _caller(ca: Path, pair: KeyPairFiles) -> dict[str, str]:
    return {"ca": str(ca), "certificate": str(pair.certificate), "key": str(pair.key)}


def _stripe_base(ports: Mapping[str, int]) -> str:
    return f"http://{HOST}:{ports['stripe']}"
