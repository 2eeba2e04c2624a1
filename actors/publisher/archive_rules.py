"""What no bundle may do, whatever its format: names that leave it or meet each other, and bombs.

Two names meet also when they differ only in case, or in the normal form of an accented letter: some systems
take them for one file. Refused as well are names that some system reads as something else: a drive, a stream
of another file, a device, or a name that loses its last dot.
"""

import re
import time
import unicodedata

from domain.errors import RejectedError

MEMBERS_MAX = 20_000  # a large program with its dependencies; more belongs into an archive inside
FOLDERS_MAX = 20_000  # named or not: deep paths of few members would fill the memory otherwise
UNPACKED_BYTES_MAX = 32 * 2**30  # four times the largest bundle: disks of buyers and sandboxes
RATIO_MAX = 200  # unpacked to packed; text compresses 20 times, zeros 1,000 times
RATIO_FREE_BYTES = 16 * 2**20  # small archives of empty files exceed any ratio and hurt nobody
UNPACKING_S_MAX = 1_800.0  # 8 GiB of bzip2 take half of it on a slow core; a thread is held meanwhile
NAME_CHARS_MAX = 512
PART_BYTES_MAX = 255  # what file systems take for one name
MODES_REFUSED = 0o7000  # set-user-id, set-group-id and sticky: root's tar would keep them
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE
)


class Names:
    """Every member's name is safe, and none is in another's way."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self.files: set[str] = set()
        self._members = 0
        self._headers = 0

    def count(self) -> None:
        """Count a header: a member's, or one that only says something of a member; as many again of those.

        Raises:
            RejectedError: ``bundle_unsafe``.
        """
        self._headers += 1
        if self._headers > 2 * MEMBERS_MAX:
            raise unsafe(f"it has more than {MEMBERS_MAX} members")

    def add(self, name: str, *, folder: bool) -> None:
        """Take a member's name as it stands in the archive.

        Raises:
            RejectedError: ``bundle_unsafe``.
        """
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise unsafe(f"it has more than {MEMBERS_MAX} members")
        path = name.removesuffix("/") if folder else name
        parts = path.removeprefix("./").split("/")
        if path in (".", "./", "") and folder:
            return
        if (
            len(name) > NAME_CHARS_MAX
            or not name.isprintable()
            or any(separator in name for separator in "\\:")
            or any(_is_odd(part) for part in parts)
        ):
            raise unsafe(f"the member name {name[:80]!a} is absolute, leaves the bundle or is odd")
        folded = [_folded(part) for part in parts]
        key = "/".join(folded)
        parents = {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        if not parents.isdisjoint(self.files) or key in self.files or (not folder and key in self._folders):
            raise unsafe(f"two members are in each other's way at {name[:80]!a}")
        self._folders |= parents
        (self._folders if folder else self.files).add(key)
        if len(self._folders) > FOLDERS_MAX:
            raise unsafe(f"it has more than {FOLDERS_MAX} folders")


def _is_odd(part: str) -> bool:
    return (
        part in ("", ".", "..")
        or part.endswith((".", " "))
        or len(part.encode("utf-8", "surrogateescape")) > PART_BYTES_MAX
        or _DEVICE.fullmatch(part) is not None
    )


def _folded(part: str) -> str:
    """Canonical caseless form (Unicode 3.13, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold())


class Budget:
    """How many bytes may still come out of the decompressor, and until when."""

    def __init__(self, packed_bytes: int) -> None:
        self._until_s = time.monotonic() + UNPACKING_S_MAX
        self._left = min(UNPACKED_BYTES_MAX, max(RATIO_FREE_BYTES, packed_bytes * RATIO_MAX))

    def spend(self, size: int) -> None:
        """Pay for ``size`` bytes; raises RejectedError ``bundle_unsafe``."""
        self._left -= size
        if self._left < 0:
            raise unsafe("it unpacks to far more than it holds")
        if time.monotonic() > self._until_s:
            raise unsafe(f"it takes longer than {UNPACKING_S_MAX:.0f} s to unpack")


def unsafe(why: str) -> RejectedError:
    """Say why a bundle is refused."""
    return RejectedError("bundle_unsafe", f"The bundle is refused: {why}. Pack plain files and folders.")
