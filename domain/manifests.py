"""Release manifests: a seller's signed word on what a bundle is, how to start it and how it is sold.

The payload is an in-toto statement whose one subject is the bundle; sellers may sign it with any DSSE
tool. Decides which manifests a release may be published under. Refused: versions that are not semantic,
entry points that leave the bundle, platforms not listed here, and manifests that with their DSSE framing
exceed the 4,096 bytes that key services sign.

Delivery manifests, which the platform signs, are in ``domain.delivery_manifests``.
"""

import re
from dataclasses import dataclass
from typing import Any

from domain.document_fields import (
    closed_object,
    integer_field,
    text_field,
    token_field,
)
from domain.dsse import signed_message
from domain.licence_policies import OfferedPolicy
from domain.semver import Version, parse_version
from domain.statements import PAYLOAD_TYPE, Statement, Subject
from domain.strict_json import DocumentError

PREDICATE_TYPE = "urn:illuvrse:marketplace:release-manifest:v1"
BUNDLE_BYTES_MAX = 8 * 2**30  # sandboxes and buyers' disks; a multiple of what sellers ship today
BUNDLE_NAME_CHARS_MAX = 100  # deliveries append ".age-payload" within the limit of file names here
DESCRIPTION_CHARS_MAX = 600  # at four bytes each it still fits what key services sign
ENTRY_POINT_CHARS_MAX = 200  # a path inside the bundle
PLATFORMS = frozenset(
    {
        "any",
        "linux-x86_64",
        "linux-aarch64",
        "macos-x86_64",
        "macos-aarch64",
        "windows-x86_64",
        "windows-aarch64",
    }
)

CHANNELS = ("stable", "candidate", "beta", "nightly")
PRICE_REFS_MAX = 8  # of 128 characters each
PREVIEW_WORDS_MAX = 16
PREVIEW_WORD_CHARS_MAX = 200
PREVIEW_PORT_MIN, PREVIEW_PORT_MAX = 1_024, 65_535  # a sandbox has no privileged ports

_ENTRY_POINT = re.compile(r"[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*")
_PREDICATE = frozenset({"sku", "version", "size", "entry_point", "platform", "licence_policy", "description"})
# Absent in manifests from before there were any, which mean the defaults; never written when they are those.
_OPTIONAL = frozenset({"channel", "price_refs", "preview"})
_PREVIEW = frozenset({"command", "port"})


@dataclass(frozen=True, slots=True)
class PreviewRecipe:
    """How a sandbox starts the bundle to show it: a command inside it, and the port that it serves."""

    command: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """One release. ``size`` is the bundle's length in bytes; ``sku`` is the SKU's name (a slug).

    ``price_refs`` name price lists that the seller means it to be sold under; what is charged is decided by
    the marketplace's own price lists.
    """

    bundle_name: str
    bundle_sha256: str
    size: int
    sku: str
    version: Version
    entry_point: str
    platform: str
    licence_policy: OfferedPolicy
    description: str
    channel: str = CHANNELS[0]
    price_refs: tuple[str, ...] = ()
    preview: PreviewRecipe | None = None


def build(manifest: ReleaseManifest) -> bytes:
    """Return the payload for the seller to sign: equal manifests always give equal bytes.

    Raises:
        DocumentError: for a manifest that ``parse`` would refuse.
    """
    predicate: dict[str, Any] = {
        "sku": manifest.sku,
        "version": str(manifest.version),
        "size": manifest.size,
        "entry_point": manifest.entry_point,
        "platform": manifest.platform,
        "licence_policy": manifest.licence_policy.as_json(),
        "description": manifest.description,
    }
    if manifest.channel != CHANNELS[0]:
        predicate["channel"] = manifest.channel
    if manifest.price_refs:
        predicate["price_refs"] = list(manifest.price_refs)
    if manifest.preview is not None:
        predicate["preview"] = {"command": list(manifest.preview.command), "port": manifest.preview.port}
    subject = Subject(manifest.bundle_name, manifest.bundle_sha256)
    payload = Statement((subject,), PREDICATE_TYPE, predicate).build()
    parse(payload)
    return payload


def parse(payload: bytes) -> ReleaseManifest:
    """Read and validate the payload of a verified envelope.

    Raises:
        DocumentError: the codes of ``Statement.parse``, ``version_invalid``, ``entry_point_invalid``,
            ``platform_unknown``, ``licence_policy_unknown``, ``channel_unknown`` or ``payload_too_large``.
    """
    # The platform countersigns these very bytes, so its key service's limit holds for sellers too.
    signed_message(PAYLOAD_TYPE, payload)
    statement = Statement.parse(payload, predicate_type=PREDICATE_TYPE)
    if len(statement.subjects) != 1:
        raise DocumentError("subjects_invalid", "A release manifest is about exactly one bundle.")
    bundle = statement.subjects[0]
    if len(bundle.name) > BUNDLE_NAME_CHARS_MAX:
        raise DocumentError(
            "field_invalid", f"A bundle's name has at most {BUNDLE_NAME_CHARS_MAX} characters."
        )
    members = closed_object(statement.predicate, "The release manifest", _PREDICATE, _OPTIONAL)
    entry_point = text_field(members, "entry_point", ENTRY_POINT_CHARS_MAX)
    if not _ENTRY_POINT.fullmatch(entry_point) or not {".", ".."}.isdisjoint(entry_point.split("/")):
        raise DocumentError(
            "entry_point_invalid", "entry_point must be a relative path inside the bundle, joined by '/'."
        )
    platform = text_field(members, "platform", ENTRY_POINT_CHARS_MAX)
    if platform not in PLATFORMS:
        raise DocumentError("platform_unknown", f"platform must be one of {', '.join(sorted(PLATFORMS))}.")
    return ReleaseManifest(
        bundle_name=bundle.name,
        bundle_sha256=bundle.sha256,
        size=integer_field(members, "size", 1, BUNDLE_BYTES_MAX),
        sku=token_field(members, "sku"),
        version=parse_version(token_field(members, "version")),
        entry_point=entry_point,
        platform=platform,
        licence_policy=OfferedPolicy.from_json(members["licence_policy"]),
        description=text_field(members, "description", DESCRIPTION_CHARS_MAX, lines=True),
        channel=read_channel(members),
        price_refs=read_price_refs(members),
        preview=read_preview(members),
    )


def read_channel(members: dict[str, Any]) -> str:
    """Read the optional ``channel``; raises DocumentError ``channel_unknown``."""
    channel = members.get("channel", CHANNELS[0])
    if channel not in CHANNELS:
        raise DocumentError("channel_unknown", f"channel must be one of {', '.join(CHANNELS)}.")
    return str(channel)


def read_price_refs(members: dict[str, Any]) -> tuple[str, ...]:
    """Read the optional ``price_refs``; raises DocumentError ``field_invalid``."""
    refs = members.get("price_refs", [])
    if not isinstance(refs, list) or len(refs) > PRICE_REFS_MAX:
        raise DocumentError("field_invalid", f"price_refs lists at most {PRICE_REFS_MAX} references.")
    if ("price_refs" in members and not refs) or len({str(one) for one in refs}) != len(refs):
        raise DocumentError("field_invalid", "price_refs is left out when empty, and names none twice.")
    return tuple(token_field({"price_refs": one}, "price_refs") for one in refs)


def read_preview(members: dict[str, Any]) -> PreviewRecipe | None:
    """Read the optional ``preview``; raises DocumentError, codes as of ``closed_object``."""
    if "preview" not in members:
        return None
    recipe = closed_object(members["preview"], "preview", _PREVIEW)
    command = recipe["command"]
    if not isinstance(command, list) or not 1 <= len(command) <= PREVIEW_WORDS_MAX:
        raise DocumentError("field_invalid", f"preview.command has 1 to {PREVIEW_WORDS_MAX} words.")
    words = tuple(text_field({"command": one}, "command", PREVIEW_WORD_CHARS_MAX) for one in command)
    return PreviewRecipe(words, integer_field(recipe, "port", PREVIEW_PORT_MIN, PREVIEW_PORT_MAX))


def require_match(
    manifest: ReleaseManifest,
    *,
    sku: str,
    version: str,
    channel: str,
    bundle_name: str,
    sha256: str,
    size: int,
) -> None:
    """Check a manifest against the release that it was sent for and the bundle that was uploaded.

    Raises:
        DocumentError: ``manifest_mismatch``, naming what differs.
    """
    pairs = {
        "sku": (manifest.sku, sku),
        "version": (str(manifest.version), version),
        "channel": (manifest.channel, channel),
        "bundle name": (manifest.bundle_name, bundle_name),
        "bundle digest": (manifest.bundle_sha256, sha256),
        "bundle size": (manifest.size, size),
    }
    differing = [name for name, (signed, actual) in pairs.items() if signed != actual]
    if differing:
        raise DocumentError(
            "manifest_mismatch",
            f"The signed manifest and the upload differ in: {', '.join(differing)}. Sign the right bundle.",
        )
