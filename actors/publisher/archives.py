"""Which bundles are safe to unpack: read as a stream of names and sizes, never extracted.

A bundle is a tar (plain, gzip, bzip2, xz) or a zip. Refused with ``bundle_unsafe``: anything else; absolute
names, ``..``, drive letters, backslashes, control characters; links, devices and pipes; a name twice, also
when they differ only in case (they would overwrite each other on some systems); a file used as a folder;
encrypted zip members, set-user-id; and bombs: too many members, too many bytes unpacked, or too high a
ratio. What is counted is what comes out of the decompressor, never what a header claims.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from typing import IO, Protocol

from actors.publisher.archive_rules import MODES_REFUSED, Budget, Names, unsafe
from actors.publisher.zip_archives import check_zip

EXTENSION_BYTES_MAX = 65_536  # a long name and some attributes of one member
XZ_MEMORY_BYTES_MAX = 128 * 2**20  # "xz -9" needs half of it; a header may ask for 4 GiB
_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512
_POSIX_MAGIC = b"ustar\x00"
_MAGIC_AT, _PREFIX_AT, _PREFIX_END = 257, 345, 500  # of a header block, in bytes
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE)
_ZIP_MAGIC = b"PK\x03\x04"
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def check_archive(bundle: IO[bytes], size: int) -> None:
    """Read the archive in ``bundle`` (seekable, ``size`` bytes) from its start to its end.

    Raises:
        RejectedError: ``bundle_unsafe``, saying what is wrong.
    """
    bundle.seek(0)
    magic = bundle.read(8)
    bundle.seek(0)
    names = Names()
    budget = Budget(size)
    try:
        if magic.startswith(_ZIP_MAGIC):
            check_zip(bundle, size, names, budget)
        else:
            _check_tar(_Counted(_decompressed(bundle, magic), budget), names)
    except RuntimeError:  # what zipfile raises for a password, and for compressions that it does not know
        raise unsafe("a member is encrypted, or compressed in a way that not every tool reads") from None
    except _BROKEN:
        raise unsafe("it is not a whole tar or zip archive") from None
    if not names.files:
        raise unsafe("it holds no file")


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
            raise unsafe("something follows its end")
        return b""


class _Counted:
    """A forward-only reader that pays for every byte."""

    def __init__(self, source: _Reader, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.spend(len(data))
        return data


def _check_tar(source: _Counted, names: Names) -> None:
    # Walked by hand: ``tarfile`` keeps extended headers of any size in memory, and stops in silence at a
    # damaged header, where other tools look for the next one.
    long_name: str | None = None
    while any(header := _exactly(source, _TAR_BLOCK)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.size < 0:
            raise unsafe("a member has a negative size")
        if member.type in _EXTENSIONS:
            if member.size > EXTENSION_BYTES_MAX:
                raise unsafe("a member's extended header is too large")
            text = _exactly(source, _padded(member.size))[: member.size]
            named: str | None
            if member.type == tarfile.GNUTYPE_LONGNAME:
                named = text.rstrip(b"\0").decode()
            else:
                named = _pax_path(text, member.type == tarfile.XGLTYPE)
            if named is not None and long_name is not None:
                raise unsafe(f"the member after {long_name[:80]!a} is named twice")
            long_name = long_name if named is None else named
            continue
        if not header.startswith(_POSIX_MAGIC, _MAGIC_AT) and any(header[_PREFIX_AT:_PREFIX_END]):
            raise unsafe(f"the member {member.name[:80]!a} has a name that tools read differently")
        name, long_name = long_name or member.name, None
        folder = member.type == tarfile.DIRTYPE
        if not folder and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise unsafe(f"the member {name[:80]!a} is a link or a special file")
        if member.mode & MODES_REFUSED and not folder:
            raise unsafe(f"the member {name[:80]!a} asks to run as another user")
        if folder and member.size:
            raise unsafe(f"the folder {name[:80]!a} has content")
        names.add(name, folder=folder)
        _skip(source, _padded(member.size))
    # Whatever follows the end mark is unpacked by some tools, and may be a bomb.
    while block := source.read(_BLOCK_BYTES):
        if block.strip(b"\0"):
            raise unsafe("something follows its end")


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
            raise unsafe(f"its extended headers set {key.decode()!a}")
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
