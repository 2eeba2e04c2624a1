"""Bundles: a seller's directory, checked and packed the same way on every machine.

``marketplace.json`` beside the sources says what is sold. Packing is deterministic, so that a digest
names a content: sorted paths, one fixed time, no owners, two modes, gzip without a name or time. The
same directory gives the same bytes whoever packs it with the same zlib.
Refused: links and special files (they would point outside the buyer's copy), names that are unsafe on
some file system, an entry point that does not exist, files that look like secrets, and bundles above
the limits. Caches and version control's own folders are left out.
"""

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from domain import strict_json
from domain.document_fields import closed_object, text_field
from domain.licence_policies import OfferedPolicy
from domain.manifests import (
    BUNDLE_BYTES_MAX,
    CHANNELS,
    DESCRIPTION_CHARS_MAX,
    PLATFORMS,
    PreviewRecipe,
    read_channel,
    read_preview,
    read_price_refs,
)
from domain.money import AMOUNT_MINOR_MAX, is_currency
from domain.semver import parse_version
from domain.strict_json import DocumentError

MANIFEST_NAME = "marketplace.json"
MANIFEST_BYTES_MAX = 16_384  # names, prices and 600 characters of description fit many times
FILES_MAX = 10_000  # a program with its dependencies; larger trees belong in an archive inside
IN_MEMORY_BYTES_MAX = 32 * 2**20  # a larger bundle is packed into a temporary file
READ_BYTES = 2**20
PATH_CHARS_MAX = 200  # what old tar readers and every file system take
TITLE_CHARS_MAX = 120  # one line in a shop's list
NAME_CHARS_MAX = 64
MODE_FILE, MODE_PROGRAM = 0o644, 0o755
FIXED_MTIME = 315_532_800  # 1980-01-01, the earliest time that zip readers know too
_LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn", ".venv", "node_modules", ".DS_Store"})
_SECRETS = frozenset({".env", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "credentials.json"})
_PATH_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-/@ ")
_MEMBERS = frozenset({"name", "title", "description", "version", "entry_point", "prices", "platform"})
_OPTIONAL = frozenset({"licence_policy", "channel", "price_refs", "preview"})
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What ``marketplace.json`` says. ``prices`` are minor units by currency."""

    name: str
    title: str
    description: str
    version: str
    entry_point: str
    prices: dict[str, int]
    platform: str
    licence_policy: OfferedPolicy
    channel: str = CHANNELS[0]
    price_refs: tuple[str, ...] = ()
    preview: PreviewRecipe | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed bundle: what it says of itself, its file name, length in bytes and SHA-256 (lower-case hex).

    ``file`` holds its bytes and is at its start; whoever packs closes it.
    """

    info: BundleInfo
    file_name: str
    size: int
    sha256: str
    paths: tuple[str, ...]
    file: IO[bytes] = field(repr=False, compare=False)

    @property
    def entry_member(self) -> str:
        """The entry point as a member of the archive, which has one folder at its top."""
        return f"{self.info.name}-{self.info.version}/{self.info.entry_point}"


def read_info(folder: Path) -> BundleInfo:
    """Read and check ``marketplace.json``.

    Raises:
        DocumentError: ``bundle_manifest_missing``, ``prices_invalid``, ``platform_unknown``,
            ``name_invalid``, ``version_invalid`` and the codes of ``domain.document_fields``.
    """
    path = folder / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DocumentError(
            "bundle_manifest_missing",
            f"{path} cannot be read ({error.strerror}). A bundle's folder holds a {MANIFEST_NAME} with "
            f"{', '.join(sorted(_MEMBERS))}.",
        ) from None
    members = closed_object(
        strict_json.loads(raw, max_bytes=MANIFEST_BYTES_MAX), MANIFEST_NAME, _MEMBERS, _OPTIONAL
    )
    name = text_field(members, "name", NAME_CHARS_MAX)
    if not _NAME.fullmatch(name):
        raise DocumentError("name_invalid", "name is lower-case letters, digits and hyphens, a letter first.")
    if members["platform"] not in PLATFORMS:
        raise DocumentError("platform_unknown", f"platform must be one of {', '.join(sorted(PLATFORMS))}.")
    return BundleInfo(
        name=name,
        title=text_field(members, "title", TITLE_CHARS_MAX),
        description=text_field(members, "description", DESCRIPTION_CHARS_MAX, lines=True),
        version=str(parse_version(text_field(members, "version", NAME_CHARS_MAX))),
        entry_point=text_field(members, "entry_point", PATH_CHARS_MAX),
        prices=_prices(members["prices"]),
        platform=members["platform"],
        licence_policy=OfferedPolicy.from_json(members.get("licence_policy", {"kind": "perpetual"})),
        channel=read_channel(members),
        price_refs=read_price_refs(members),
        preview=read_preview(members),
    )


def _prices(value: Any) -> dict[str, int]:
    wrong = DocumentError(
        "prices_invalid",
        f"prices maps currencies to minor units between 0 and {AMOUNT_MINOR_MAX}, such as USD: 1999.",
    )
    if not isinstance(value, dict) or not value:
        raise wrong
    for currency, amount_minor in value.items():
        if not is_currency(currency) or type(amount_minor) is not int:
            raise wrong
        if not 0 <= amount_minor <= AMOUNT_MINOR_MAX:
            raise wrong
    return dict(value)


def pack(folder: Path) -> Bundle:
    """Pack a bundle's folder as ``NAME-VERSION.tar.gz``.

    Raises:
        DocumentError: see the module; also the codes of ``read_info``.
    """
    info = read_info(folder)
    files = _files(folder)
    names = [name for name, _ in files]
    if info.entry_point not in names:
        raise DocumentError(
            "entry_point_invalid", f"entry_point {info.entry_point!r} is not a file of the bundle."
        )
    root = f"{info.name}-{info.version}"
    size = sum(path.stat().st_size for _, path in files)
    in_memory = size <= IN_MEMORY_BYTES_MAX
    packed: IO[bytes] = io.BytesIO() if in_memory else tempfile.TemporaryFile(prefix="bundle-")  # noqa: SIM115 - handed on
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=FIXED_MTIME) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, path in files:
            with path.open("rb") as source:
                member = tarfile.TarInfo(f"{root}/{name}")
                status = os.fstat(source.fileno())
                member.size = status.st_size
                member.mtime = FIXED_MTIME
                member.mode = MODE_PROGRAM if status.st_mode & stat.S_IXUSR else MODE_FILE
                archive.addfile(member, source)
    return bundle_of(info, f"{root}.tar.gz", tuple(names), packed)


def bundle_of(info: BundleInfo, file_name: str, paths: tuple[str, ...], file: IO[bytes]) -> Bundle:
    """Measure a packed bundle's ``file`` (seekable) from its start to its end."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while block := file.read(READ_BYTES):
        digest.update(block)
        size += len(block)
    file.seek(0)
    return Bundle(info, file_name, size, digest.hexdigest(), paths, file)


def _files(folder: Path) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    size = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not _LEFT_OUT.isdisjoint(relative.parts) or path.suffix == ".pyc":
            continue
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        name = str(PurePosixPath(*relative.parts))
        if not stat.S_ISREG(mode):
            raise DocumentError(
                "bundle_unsafe", f"{name!r} is a link or a special file; bundle plain files only."
            )
        if path.name in _SECRETS or path.suffix in {".pem", ".key"}:
            raise DocumentError(
                "bundle_unsafe", f"{name!r} looks like a secret. Move it out of the bundle's folder."
            )
        if len(name) > PATH_CHARS_MAX or not _PATH_CHARS.issuperset(name):
            raise DocumentError(
                "bundle_unsafe",
                f"{name[:80]!r} is not a portable path: letters, digits, space and ._+-@, {PATH_CHARS_MAX} "
                "at most.",
            )
        size += path.stat().st_size
        found.append((name, path))
        if len(found) > FILES_MAX or size > BUNDLE_BYTES_MAX:
            raise DocumentError(
                "bundle_too_large", f"A bundle has at most {FILES_MAX} files and {BUNDLE_BYTES_MAX} bytes."
            )
    return sorted(found)
