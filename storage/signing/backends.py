"""Signing backends by their addresses: which key service signs, and how it is reached.

    file:PATH                                                       development only: the keys are in the file
    aws-kms:KEY?wrap=KEY[&region=R][&endpoint=URL]
    vault:https://HOST:PORT/MOUNT/KEY?wrap=KEY&token_file=PATH[&version=N][&ca=PATH]
    pkcs11:token=LABEL;object=LABEL?module-path=PATH&pin-source=file:PATH&x-wrap=LABEL     (RFC 7512)
    proxy:https://HOST:PORT?ca=PATH&cert=PATH&key=PATH

Plain http is taken for services on this machine only: a token, or a file key, would be read on the way.
``&per_s=N`` sets the requests a second that the service grants us. An address holds no secret: it is logged.
Refuses an address that it does not understand as a whole, rather than to guess what was meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from domain.errors import RejectedError
from domain.signing import Keys
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.guarded import GuardedKeys, Observer, Quota, ignore
from storage.signing.proxy import ClientFiles, SigningProxy

FILE = "file"
PER_S_MAX = 100_000.0
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: its scheme, what follows it, and its parameters by name."""

    scheme: str
    place: str
    parameters: Mapping[str, str]

    def required(self, name: str) -> str:
        """Return a parameter; raises RejectedError ``signing_backend_invalid`` without it."""
        if name not in self.parameters:
            raise _invalid(f"{self.scheme}: needs ?{name}=…")
        return self.parameters[name]

    def path(self, name: str) -> Path | None:
        """Return a parameter that names a file."""
        return Path(self.parameters[name]) if name in self.parameters else None


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        RejectedError: ``signing_backend_invalid``.
    """
    scheme, colon, rest = text.partition(":")
    place, _, query = rest.partition("?")
    if not colon or not place or scheme not in _OPENERS:
        raise _invalid(f"It starts with one of {', '.join(f'{one}:' for one in _OPENERS)}.")
    try:
        pairs = parse_qsl(query, strict_parsing=True) if query else []
    except ValueError:
        raise _invalid(f"The parameters of {scheme}: are not name=value&name=value.") from None
    parameters = dict(pairs)
    if len(parameters) != len(pairs) or not parameters.keys() <= _PARAMETERS[scheme] | {"per_s"}:
        raise _invalid(f"{scheme}: takes {', '.join(sorted(_PARAMETERS[scheme]))}, each once.")
    return Address(scheme, place, parameters)


def open_backend(text: str, observe: Observer = ignore) -> Keys:
    """Open a backend; it has shown its public key by then, and nothing else was done.

    Raises:
        RejectedError: ``signing_backend_invalid``, or a code of ``DevelopmentKeyFile.load``.
        DependencyError: ``signer_unavailable`` or ``signer_refused``.
    """
    address = parse_address(text)
    return _OPENERS[address.scheme](address, observe)


def _open_file(address: Address, _observe: Observer) -> Keys:
    return DevelopmentKeyFile.load(Path(address.place))


def _open_kms(address: Address, observe: Observer) -> Keys:
    from storage.signing import kms  # noqa: PLC0415 - boto3 takes half a second, and few need it here

    if (endpoint := address.parameters.get("endpoint")) is not None:
        _require_private(endpoint)
    service = kms.AwsKms(
        unquote(address.place),
        address.required("wrap"),
        region=address.parameters.get("region"),
        endpoint=endpoint,
    )
    return GuardedKeys(service, _quota(address, kms.QUOTA), observe)


def _open_vault(address: Address, observe: Observer) -> Keys:
    from storage.signing import vault  # noqa: PLC0415 - as above

    where = urlsplit(address.place)
    mount, _, key = where.path.strip("/").rpartition("/")
    if where.scheme not in ("http", "https") or not where.hostname or not mount or not key:
        raise _invalid("vault: is followed by https://HOST:PORT/MOUNT/KEY.")
    _require_private(address.place)
    version = address.parameters.get("version")
    if version is not None and not version.isdigit():
        raise _invalid("version is a number.")
    service = vault.VaultTransit(
        f"{where.scheme}://{where.netloc}",
        mount,
        key,
        address.required("wrap"),
        token_file=Path(address.required("token_file")),
        ca=address.path("ca"),
        version=int(version) if version else None,
    )
    return GuardedKeys(service, _quota(address, vault.QUOTA), observe)


def _open_pkcs11(address: Address, observe: Observer) -> Keys:
    from storage.signing import hsm  # noqa: PLC0415 - an optional package

    named = dict(one.partition("=")[::2] for one in address.place.split(";"))
    source = address.required("pin-source")
    if named.keys() != {"token", "object"} or not source.startswith("file:"):
        raise _invalid("pkcs11: is followed by token=LABEL;object=LABEL, and pin-source is file:PATH.")
    service = hsm.Pkcs11Token(
        Path(address.required("module-path")),
        unquote(named["token"]),
        unquote(named["object"]),
        address.required("x-wrap"),
        pin_file=Path(source.removeprefix("file:")),
    )
    return GuardedKeys(service, _quota(address, None), observe)


def _open_proxy(address: Address, observe: Observer) -> Keys:
    if not address.place.startswith("https://"):
        raise _invalid("proxy: is followed by https://HOST:PORT.")
    _require_private(address.place)
    files = ClientFiles(
        Path(address.required("ca")), Path(address.required("cert")), Path(address.required("key"))
    )
    return GuardedKeys(SigningProxy(address.place, files), _quota(address, None), observe)


def _require_private(url: str) -> None:
    where = urlsplit(url)
    if where.username is not None or where.password is not None:
        raise _invalid("It holds no name and no password: it is logged.")
    if where.scheme != "https" and not (where.scheme == "http" and where.hostname in _THIS_MACHINE):
        raise _invalid("A service on another machine is reached by https.")


def _quota(address: Address, default: Quota | None) -> Quota | None:
    text = address.parameters.get("per_s")
    if text is None:
        return default
    if not text.isdigit() or not 1 <= int(text) <= PER_S_MAX:
        raise _invalid(f"per_s is a number from 1 to {PER_S_MAX:.0f}.")
    return Quota(float(text), int(text))


def _invalid(reason: str) -> RejectedError:
    return RejectedError(
        "signing_backend_invalid", f"The signing backend's address is not understood. {reason}"
    )


_OPENERS: dict[str, Callable[[Address, Observer], Keys]] = {
    FILE: _open_file,
    "aws-kms": _open_kms,
    "vault": _open_vault,
    "pkcs11": _open_pkcs11,
    "proxy": _open_proxy,
}
_PARAMETERS: dict[str, frozenset[str]] = {
    FILE: frozenset(),
    "aws-kms": frozenset({"wrap", "region", "endpoint"}),
    "vault": frozenset({"wrap", "token_file", "version", "ca"}),
    "pkcs11": frozenset({"module-path", "pin-source", "x-wrap"}),
    "proxy": frozenset({"ca", "cert", "key"}),
}
