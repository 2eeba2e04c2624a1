"""Which bundles are safe to unpack: read as a stream of names and sizes, never extracted.

A bundle is a tar (plain, gzip, bzip2, xz) or a zip, and its name says which: tools choose by either, and a
file that is both would show each another content. Refused with ``bundle_unsafe``: anything else; absolute
names, ``..``, drive letters, backslashes, control characters; links, devices and pipes; a name twice, also
when they differ only in case (they would overwrite each other on some systems); a file used as a folder;
encrypted zip members, set-user-id; whatever tools read differently; and bombs: too many members, folders or
bytes unpacked, or too high a ratio. What is counted is what comes out of the decompressor, never what a
header claims.
"""

import bz2
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol

from actors.publisher.archive_rules import Budget, Names, unsafe
from actors.publisher.tar_archives import Reader, check_tar, is_header
from actors.publisher.zip_archives import check_zip

XZ_MEMORY_BYTES_MAX = 128 * 2**20  # "xz -9" needs half of it; a header may ask for 4 GiB
_FED_BYTES = 65_536
_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512
_ZIP_MAGIC = b"PK\x03\x04"
_BROKEN = (tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError)


def check_archive(bundle: IO[bytes], size: int, name: str) -> None:
    """Read the archive in ``bundle`` (seekable, ``size`` bytes, called ``name``) from its start to its end.

    Raises:
        RejectedError: ``bundle_unsafe``, saying what is wrong.
    """
    bundle.seek(0)
    start = bundle.read(_TAR_BLOCK)
    bundle.seek(0)
    names = Names()
    budget = Budget(size)
    try:
        if start.startswith(_ZIP_MAGIC):
            _check_name(name, zipped=True, suffixes=())
            if len(start) == _TAR_BLOCK and is_header(start):
                raise unsafe("it is a zip to some tools and a tar to others")
            check_zip(bundle, size, names, budget)
        else:
            form = next((one for one in _COMPRESSED if start.startswith(one.magic)), _PLAIN)
            _check_name(name, zipped=False, suffixes=form.suffixes)
            unpacked = bundle if form.decompressor is None else _OneStream(bundle, form.decompressor())
            check_tar(_Counted(unpacked, budget), names)
    except _BROKEN:
        raise unsafe("it is not a whole tar or zip archive") from None
    if not names.files:
        raise unsafe("it holds no file")


class _Decompressor(Protocol):
    """What ``bz2`` and ``lzma`` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """``zlib``'s decompressor in the form of the other two."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflater.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length)


@dataclass(frozen=True, slots=True)
class _Form:
    magic: bytes
    suffixes: tuple[str, ...]
    decompressor: Callable[[], _Decompressor] | None


_PLAIN = _Form(b"", (".tar",), None)
_COMPRESSED = (
    _Form(b"\x1f\x8b", (".tar.gz", ".tgz"), _Gunzip),
    _Form(b"BZh", (".tar.bz2", ".tbz2", ".tbz"), bz2.BZ2Decompressor),
    _Form(
        b"\xfd7zXZ\x00",
        (".tar.xz", ".txz"),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX),
    ),
)
_TAR_SUFFIXES = tuple(suffix for form in (_PLAIN, *_COMPRESSED) for suffix in form.suffixes)


def _check_name(name: str, *, zipped: bool, suffixes: tuple[str, ...]) -> None:
    # Many formats are zips (.whl, .jar, …), so a zip may be called anything but a tar.
    lowered = name.lower()
    if zipped and lowered.endswith(_TAR_SUFFIXES):
        raise unsafe(f"it is a zip and is called {name[:80]!a}")
    if not zipped and not lowered.endswith(suffixes):
        raise unsafe(f"its content asks for a name that ends in {' or '.join(suffixes)}, not {name[:80]!a}")


class _OneStream:
    """Exactly one compressed stream: of several, some tools read only the first."""

    def __init__(self, source: IO[bytes], decompressor: _Decompressor) -> None:
        self._source = source
        self._decompressor = decompressor
        self._ahead = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(self._unpack())
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return bytes(data)

    def _unpack(self) -> bytes:
        while not self._decompressor.eof:
            hungry = self._decompressor.needs_input
            fed = self._source.read(_FED_BYTES) if hungry else b""
            if data := self._decompressor.decompress(fed, _BLOCK_BYTES):
                return data
            if hungry and not fed and not self._decompressor.eof:
                raise EOFError
        if self._decompressor.unused_data or self._source.read(1):
            raise unsafe("something follows its end")
        return b""


class _Counted:
    """A forward-only reader that pays for every byte."""

    def __init__(self, source: Reader, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.spend(len(data))
        return data
