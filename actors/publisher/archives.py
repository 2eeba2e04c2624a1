"""Which bundles are safe to unpack: read as a stream of names and sizes, never extracted.

A bundle is a tar (plain, gzip, bzip2, xz) or a zip. Refused with ``bundle_unsafe``: anything else; absolute
names, ``..``, drive letters, backslashes, control characters; links, devices and pipes; a name twice, also
when they differ only in case (they would overwrite each other on some systems); a file used as a folder;
encrypted zip members; and bombs: too many members, too many bytes unpacked, or too high a ratio. What is
counted is what comes out of the decompressor, never what a header claims.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import IO, Protocol

from domain.errors import RejectedError

MEMBERS_MAX = 20_000  # a large program with its dependencies; more belongs into an archive inside
UNPACKED_BYTES_MAX = 32 * 2**30  # four times the largest bundle: disks of buyers and sandboxes
RATIO_MAX = 200  # unpacked to packed; text compresses 20 times, zeros 1,000 times
RATIO_FREE_BYTES = 16 * 2**20  # small archives of empty files exceed any ratio and hurt nobody
NAME_CHARS_MAX = 512
EXTENSION_BYTES_MAX = 65_536  # a long name and some attributes of one member
XZ_MEMORY_BYTES_MAX = 128 * 2**20  # "xz -9" needs half of it; a header may ask for 4 GiB
ZIP_DIRECTORY_BYTES_MAX = 16 * 2**20  # 20,000 members with names of 512 characters
_DRIVE = re.compile(r"^[A-Za-z]:")
_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE)
_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP_END_BYTES = 22
_ZIP64_LOCATOR_BYTES = 20
_ZIP_END_BYTES_MAX = _ZIP_END_BYTES + 65_535  # with the longest comment
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def check_archive(bundle: IO[bytes], size: int) -> None:
    """Read the archive in ``bundle`` (seekable, ``size`` bytes) from its start to its end.

    Raises:
        RejectedError: ``bundle_unsafe``, saying what is wrong.
    """
    bundle.seek(0)
    magic = bundle.read(8)
    bundle.seek(0)
    names = _Names()
    budget = _Budget(size)
    try:
        if magic.startswith(_ZIP_MAGIC):
            _check_zip(bundle, size, names, budget)
        else:
            _check_tar(_Counted(_decompressed(bundle, magic), budget), names)
    except RuntimeError:  # what zipfile raises for a password, and for compressions that it does not know
        raise _unsafe("a member is encrypted, or compressed in a way that not every tool reads") from None
    except _BROKEN:
        raise _unsafe("it is not a whole tar or zip archive") from None
    if not names.files:
        raise _unsafe("it holds no file")


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, empty only at the end."""


def _decompressed(bundle: IO[bytes], magic: bytes) -> _Reader:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=bundle)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(bundle)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return _XzReader(bundle)
    return bundle


class _XzReader:
    """One xz stream within a bound of memory, which ``lzma.LZMAFile`` does not offer."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)

    def read(self, size: int, /) -> bytes:
        while not self._decompressor.eof:
            fed = self._source.read(_BLOCK_BYTES) if self._decompressor.needs_input else b""
            if not fed and self._decompressor.needs_input:
                raise EOFError
            if data := self._decompressor.decompress(fed, size):
                return data
        if self._decompressor.unused_data or self._source.read(1):
            raise _unsafe("something follows its end")
        return b""


class _Names:
    """Every member's name is safe, and none is in another's way."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self.files: set[str] = set()
        self._members = 0

    def add(self, name: str, *, folder: bool) -> None:
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise _unsafe(f"it has more than {MEMBERS_MAX} members")
        path = name.removesuffix("/") if folder else name
        parts = path.removeprefix("./").split("/")
        if path in (".", "./", "") and folder:
            return
        if (
            len(name) > NAME_CHARS_MAX
            or not name.isprintable()
            or "\\" in name
            or _DRIVE.match(name)
            or not {"", ".", ".."}.isdisjoint(parts)
        ):
            raise _unsafe(f"the member name {name[:80]!a} is absolute, leaves the bundle or is odd")
        # Case is folded: two files that differ in it only would overwrite each other on some systems.
        folded = [part.casefold() for part in parts]
        key = "/".join(folded)
        parents = {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        if not parents.isdisjoint(self.files) or key in self.files or (not folder and key in self._folders):
            raise _unsafe(f"two members are in each other's way at {name[:80]!a}")
        self._folders |= parents
        (self._folders if folder else self.files).add(key)


class _Budget:
    """How many bytes may still come out of the decompressor."""

    def __init__(self, packed_bytes: int) -> None:
        self._left = min(UNPACKED_BYTES_MAX, max(RATIO_FREE_BYTES, packed_bytes * RATIO_MAX))

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _unsafe("it unpacks to far more than it holds")


class _Counted:
    """A forward-only reader that pays for every byte."""

    def __init__(self, source: _Reader, budget: _Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.spend(len(data))
        return data


def _check_tar(source: _Counted, names: _Names) -> None:
    # Walked by hand: ``tarfile`` keeps extended headers of any size in memory, and stops in silence at a
    # damaged header, where other tools look for the next one.
    long_name: str | None = None
    while any(header := _exactly(source, _TAR_BLOCK)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.size < 0:
            raise _unsafe("a member has a negative size")
        if member.type in _EXTENSIONS:
            if member.size > EXTENSION_BYTES_MAX:
                raise _unsafe("a member's extended header is too large")
            text = _exactly(source, _padded(member.size))[: member.size]
            if member.type == tarfile.GNUTYPE_LONGNAME:
                long_name = text.rstrip(b"\0").decode()
            else:
                long_name = _pax_path(text, member.type == tarfile.XGLTYPE) or long_name
            continue
        name, long_name = long_name or member.name, None
        folder = member.type == tarfile.DIRTYPE
        if not folder and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _unsafe(f"the member {name[:80]!a} is a link or a special file")
        if folder and member.size:
            raise _unsafe(f"the folder {name[:80]!a} has content")
        names.add(name, folder=folder)
        _skip(source, _padded(member.size))
    # Whatever follows the end mark is unpacked by some tools, and may be a bomb.
    while block := source.read(_BLOCK_BYTES):
        if block.strip(b"\0"):
            raise _unsafe("something follows its end")


def _pax_path(text: bytes, of_all: bool) -> str | None:  # noqa: FBT001 - private, one caller
    """Read a pax header's records (POSIX.1-2001): the path, if it sets one; sizes and sparse maps never."""
    path: str | None = None
    while text:
        length, _, rest = text.partition(b" ")
        size = int(length) - len(length) - 1
        record, text = rest[:size], rest[size:]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise ValueError("malformed pax record")
        if key == b"path" and not of_all:
            path = value.decode()
        elif key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
            raise _unsafe(f"its extended headers set {key.decode()!a}")
    return path


def _exactly(source: _Counted, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = source.read(size - len(data))
        if not block:
            raise EOFError
        data += block
    return data


def _skip(source: _Counted, size: int) -> None:
    while size:
        block = source.read(min(size, _BLOCK_BYTES))
        if not block:
            raise EOFError
        size -= len(block)


def _padded(size: int) -> int:
    return -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _check_zip(bundle: IO[bytes], size: int, names: _Names, budget: _Budget) -> None:
    _bound_zip_directory(bundle, size)
    with zipfile.ZipFile(bundle) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _unsafe(f"the member {member.filename[:80]!a} is a link or a special file")
            # ``orig_filename``: zipfile replaces separators and cuts at a zero byte, other tools do not.
            names.add(member.orig_filename, folder=member.is_dir())
            with archive.open(member) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    budget.spend(len(block))


def _bound_zip_directory(bundle: IO[bytes], size: int) -> None:
    """``zipfile`` reads the whole directory into memory, so its claimed length is bounded first."""
    bundle.seek(max(0, size - _ZIP_END_BYTES_MAX))
    tail = bundle.read(_ZIP_END_BYTES_MAX)
    at = tail.rfind(_ZIP_END)
    if at < 0 or len(tail) - at < _ZIP_END_BYTES:
        raise EOFError
    if tail[max(0, at - _ZIP64_LOCATOR_BYTES) : at].startswith(_ZIP64_LOCATOR):
        raise _unsafe("it is a zip64 archive; pack what is that large as tar")
    (directory_bytes,) = struct.unpack_from("<L", tail, at + 12)
    if directory_bytes > ZIP_DIRECTORY_BYTES_MAX:
        raise _unsafe("its directory is too large")


def _unsafe(why: str) -> RejectedError:
    return RejectedError("bundle_unsafe", f"The bundle is refused: {why}. Pack plain files and folders.")
