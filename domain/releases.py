"""Releases: channels, the order of versions within one, and uploads in parts. Pure.

Buyers get the newest release of ``stable``. Within a channel versions only rise, yanked ones counted, so that
"newest" and "highest" never disagree. A published release never changes; it can be yanked, with a reason.
"""

from domain.errors import ConflictError, RejectedError
from domain.manifests import BUNDLE_BYTES_MAX, CHANNELS
from domain.semver import Version

YANK_REASON_CHARS_MAX = 500
PART_BYTES = 16 * 2**20  # of an upload, all but the last; object storage wants at least 5 MiB
DRAFT_BUNDLE_KEPT_S = 30 * 86_400  # an uploaded bundle whose draft is not published
SPENT_BUNDLE_KEPT_S = 7_200  # one that is: links to upload it live for an hour
PARTS_MAX = 1_000  # what object storage lists in one answer; with the bundle's bound 512 are needed


def require_channel(channel: str) -> str:
    """Return a channel's name.

    Raises:
        RejectedError: ``channel_unknown``.
    """
    if channel not in CHANNELS:
        raise RejectedError("channel_unknown", f"Channels are {', '.join(CHANNELS)}.")
    return channel


def require_newer(version: Version, newest: Version | None, channel: str) -> None:
    """Check a version against the newest that was ever published in its channel (None: there is none).

    Raises:
        ConflictError: ``version_not_newer``.
    """
    if newest is not None and version <= newest:
        raise ConflictError(
            "version_not_newer",
            f"The channel {channel} is at {newest}; {version} is not newer. Release a higher version, or use "
            "another channel.",
        )


def parts_of(bundle_bytes: int) -> list[int]:
    """Return the lengths of a bundle's parts, in order.

    Raises:
        RejectedError: ``bundle_size_invalid``.
    """
    if not 1 <= bundle_bytes <= BUNDLE_BYTES_MAX:
        raise RejectedError("bundle_size_invalid", f"A bundle has 1 to {BUNDLE_BYTES_MAX} bytes.")
    whole, rest = divmod(bundle_bytes, PART_BYTES)
    return [PART_BYTES] * whole + ([rest] if rest else [])
