"""The process's settings: command line for where, environment for secrets (which argv would show).

``STRIPE_SIM_SECRET_KEY`` (sk_test_…), ``STRIPE_SIM_PUBLISHABLE_KEY`` (pk_test_…) and
``STRIPE_SIM_WEBHOOK_SECRET`` (whsec_…) are required. ``STRIPE_SIM_WEBHOOK_URL`` is one endpoint that gets
``STRIPE_SIM_WEBHOOK_EVENTS`` (comma list, default all). ``STRIPE_SIM_PUBLIC_URL`` is the address that
browsers use when it is not the one listened on. Refuses anything else, naming the variable, not its value.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.local.stripe.parameters import EVENT_NAME, web_url
from cluster.local.stripe.refusals import RefusedError

SECRET_CHARS_MIN = 16  # below that a key is a word, not a secret
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the simulator is told from outside."""

    host: str
    port: int
    data_dir: Path
    public_url: str
    secret_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    webhook_url: str | None
    webhook_events: tuple[str, ...]


def read_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        ValueError: naming what is wrong and what it should be.
        SystemExit: by argparse, for a wrong command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local.stripe", description="The Stripe simulator."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--data-dir", type=Path, required=True, help="directory of the database")
    given = parser.parse_args(arguments)
    if not 1 <= given.port <= PORT_MAX:
        raise ValueError(f"--port must be from 1 to {PORT_MAX}")
    shown_host = f"[{given.host}]" if ":" in given.host else given.host
    return Settings(
        host=given.host,
        port=given.port,
        data_dir=given.data_dir,
        public_url=(_url(environ, "STRIPE_SIM_PUBLIC_URL") or f"http://{shown_host}:{given.port}").rstrip(
            "/"
        ),
        secret_key=_secret(environ, "STRIPE_SIM_SECRET_KEY", "sk_test_"),
        publishable_key=_secret(environ, "STRIPE_SIM_PUBLISHABLE_KEY", "pk_test_"),
        webhook_secret=_secret(environ, "STRIPE_SIM_WEBHOOK_SECRET", "whsec_"),
        webhook_url=_url(environ, "STRIPE_SIM_WEBHOOK_URL"),
        webhook_events=_events(environ),
    )


def _secret(environ: Mapping[str, str], name: str, prefix: str) -> str:
    value = environ.get(name, "")
    if not value.startswith(prefix) or len(value) < SECRET_CHARS_MIN:
        raise ValueError(f"{name} must be set to {prefix}… of {SECRET_CHARS_MIN} or more characters")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{name} must be printable ASCII without spaces")
    return value


def _url(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if not value:
        return None
    try:
        return web_url(value, name)
    except RefusedError:
        raise ValueError(f"{name} must be an absolute http or https address") from None


def _events(environ: Mapping[str, str]) -> tuple[str, ...]:
    listed = environ.get("STRIPE_SIM_WEBHOOK_EVENTS") or "*"
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if not names or any(EVENT_NAME.fullmatch(name) is None for name in names):
        raise ValueError("STRIPE_SIM_WEBHOOK_EVENTS must be event types with commas between them, or *")
    return names
