"""Frozen settings: what the composition root reads once and hands down.

Nothing below the composition root (``cluster.serving``) reads the environment or a file. Units come
last in each name; each limit has its reason beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.finance.client_tls import ClientTlsFiles

TAX_PROVIDERS = ("table", "stripe")
TAX_BEHAVIOURS = ("exclusive", "inclusive")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """An S3 endpoint with object lock. ``endpoint`` is a URL; buckets are names by purpose."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    bucket_uploads: str
    bucket_payloads: str
    bucket_audit: str


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """Stripe's API base address and credentials; several webhook secrets allow rotation."""

    api_base: str
    secret_key: str = field(repr=False)
    publishable_key: str
    webhook_secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class TaxSettings:
    """Who knows the tax rates: ``table`` (the operators' own) or ``stripe`` (Stripe Tax).

    ``behaviour``, of Stripe Tax: whether prices hold their tax (``inclusive``) or it comes on top
    (``exclusive``).
    """

    provider: str = "table"
    behaviour: str = "exclusive"


@dataclass(frozen=True, slots=True)
class FinanceSettings:
    """Where Finance answers, and who we are to it: certificates, or else a service token.

    ``poster`` books orders and reads nothing; ``back_office``, for payouts and reconciliation, does both.
    """

    url: str
    token: str = field(repr=False)
    poster: ClientTlsFiles | None
    back_office: ClientTlsFiles | None


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The public listener. ``base_url`` is what buyers' links start with."""

    host: str
    port: int
    base_url: str


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """One bearer token, known only by the SHA-256 of its text (hex)."""

    sha256: str
    role: str
    principal_id: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a running marketplace is told from outside."""

    postgres_dsn: str = field(repr=False)
    s3: S3Settings
    stripe: StripeSettings
    finance: FinanceSettings
    http: HttpSettings
    signing_backends: tuple[str, ...]  # addresses, see storage.signing.backends; the record says which signs
    ray_address: str
    ray_namespace: str
    tokens: tuple[TokenSettings, ...]
    log_level: str = "INFO"
    log_file: str | None = None  # None writes to stderr, which is what a container's platform collects
    payout_schedule: str = "month"  # or "week": what a payout's period is
    order_hosts: int = 0  # 0: orders run in the ingress replicas, which saves a hop (ADR 0008)
    tax: TaxSettings = TaxSettings()
    ingress_replicas: int = 2  # two, so that one dead replica never stops all orders while it is replaced


def load_settings(path: Path) -> Settings:
    """Read the settings file that the launcher (or the Helm chart's secret) wrote.

    Raises:
        ValueError: naming the missing or mistyped key.
    """
    try:
        return parse_settings(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as missing:
        raise ValueError(f"settings file {path.name} lacks {missing}") from missing


def parse_settings(raw: Mapping[str, Any]) -> Settings:
    """Turn the settings document into frozen dataclasses.

    Raises:
        KeyError: for a missing key.
        ValueError: for a tax provider or behaviour that there is not.
    """
    s3, stripe, finance, http = raw["s3"], raw["stripe"], raw["finance"], raw["http"]
    return Settings(
        postgres_dsn=raw["postgres_dsn"],
        s3=S3Settings(
            endpoint=s3["endpoint"],
            access_key=s3["access_key"],
            secret_key=s3["secret_key"],
            region=s3["region"],
            bucket_uploads=s3["buckets"]["uploads"],
            bucket_payloads=s3["buckets"]["payloads"],
            bucket_audit=s3["buckets"]["audit"],
        ),
        stripe=StripeSettings(
            api_base=stripe["api_base"],
            secret_key=stripe["secret_key"],
            publishable_key=stripe["publishable_key"],
            webhook_secrets=tuple(stripe["webhook_secrets"]),
        ),
        finance=FinanceSettings(
            url=finance["url"],
            token=finance.get("token", ""),
            poster=_tls_files(finance.get("poster")),
            back_office=_tls_files(finance.get("back_office")),
        ),
        http=HttpSettings(host=http["host"], port=int(http["port"]), base_url=http["base_url"]),
        signing_backends=tuple(raw["signing"]["backends"]),
        ray_address=raw["ray"]["address"],
        ray_namespace=raw["ray"]["namespace"],
        tokens=tuple(TokenSettings(t["sha256"], t["role"], t["principal_id"]) for t in raw["tokens"]),
        log_level=raw.get("log_level", "INFO"),
        log_file=raw.get("log_file"),
        payout_schedule=_schedule(raw.get("payout_schedule", "month")),
        order_hosts=int(raw.get("order_hosts", 0)),
        ingress_replicas=int(raw.get("ingress_replicas", 2)),
        tax=_tax(raw.get("tax", {})),
    )


def _tls_files(raw: Mapping[str, str] | None) -> ClientTlsFiles | None:
    if raw is None:
        return None
    return ClientTlsFiles(ca=Path(raw["ca"]), certificate=Path(raw["certificate"]), key=Path(raw["key"]))


def _schedule(text: Any) -> str:
    if text not in ("month", "week"):
        raise ValueError("payout_schedule is month or week")
    return str(text)


def _tax(raw: Mapping[str, Any]) -> TaxSettings:
    tax = TaxSettings(**raw) if set(raw) <= {"provider", "behaviour"} else None
    if tax is None or tax.provider not in TAX_PROVIDERS or tax.behaviour not in TAX_BEHAVIOURS:
        raise ValueError(f"tax is a provider of {TAX_PROVIDERS} and a behaviour of {TAX_BEHAVIOURS}")
    return tax
