"""Which marketplace a command talks to, as whom, and where a user's keys lie.

Decides precedence: an option, then the environment (``MARKETPLACE_URL``, ``MARKETPLACE_TOKEN``,
``MARKETPLACE_STRIPE_API``), then ``var/local.json`` of a marketplace on this machine. A token that came
from ``var/local.json`` is only ever sent to the address in the same file.
Refuses tokens as arguments, which every user of the machine can read: a file or the environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.client import ClientError, MarketplaceClient
from cluster.local.layout import Layout, default_home, read_json

STRIPE_API = "https://api.stripe.com"
TOKEN_CHARS_MAX = 512
CONFIG_FOLDER = "illuvrse-marketplace"


@dataclass(frozen=True, slots=True)
class Connection:
    """An address, a bearer token if there is one, and the base of Stripe's API that its buyers pay at."""

    base_url: str
    token: str | None = field(repr=False)
    stripe_api: str

    def require_token(self, role: str) -> str:
        """Return the token; raises ClientError ``token_missing`` with what to do."""
        if self.token:
            return self.token
        raise ClientError(
            f"No token for {self.base_url}. Put a {role}'s token into MARKETPLACE_TOKEN, or name a file with "
            "--token-file.",
            "token_missing",
        )

    def client(self, role: str) -> MarketplaceClient:
        """Return a client with the token; raises ClientError ``token_missing``."""
        return MarketplaceClient(self.base_url, self.require_token(role))


def resolve(
    role: str,
    *,
    url: str | None,
    token_file: Path | None,
    environ: Mapping[str, str] | None = None,
    layout: Layout | None = None,
) -> Connection:
    """Find the marketplace for a caller of this role.

    Raises:
        ClientError: ``address_missing`` or ``token_unreadable``.
    """
    environ = os.environ if environ is None else environ
    local = read_json((layout or Layout(default_home())).local_json)
    local_url = str(local.get("base_url", "")).rstrip("/")
    base_url = (url or environ.get("MARKETPLACE_URL") or local_url).rstrip("/")
    if not base_url:
        raise ClientError(
            "No marketplace runs here and no address was given. Start one with `make up`, or set "
            "MARKETPLACE_URL or --url.",
            "address_missing",
        )
    if not base_url.startswith(("http://", "https://")):
        raise ClientError(f"{base_url} is no address: it starts with http:// or https://.", "address_invalid")
    is_local = base_url == local_url
    token = _read_token(token_file) if token_file else environ.get("MARKETPLACE_TOKEN")
    if not token and is_local:
        token = local.get("tokens", {}).get(role)
    stripe_api = environ.get("MARKETPLACE_STRIPE_API")
    if not stripe_api and is_local:
        stripe_api = local.get("stripe", {}).get("api_base")
    return Connection(base_url, token or None, (stripe_api or STRIPE_API).rstrip("/"))


def _read_token(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(
            f"The token file {path} cannot be read: {error}. It holds the token and nothing else.",
            "token_unreadable",
        ) from None
    if not 1 <= len(text) <= TOKEN_CHARS_MAX or not text.isprintable() or " " in text:
        raise ClientError(f"The token file {path} does not hold one token.", "token_unreadable")
    return text


def config_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return where this user's keys lie unless told otherwise (XDG base directories)."""
    environ = os.environ if environ is None else environ
    root = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / CONFIG_FOLDER
