"""Tar archives: walked header by header, and refused wherever two tools could read one differently.

``tarfile`` keeps extended headers of any size in memory, stops in silence at a damaged header where other
tools look for the next one, and takes numbers that others read otherwise (a zero byte before the digits,
"1_0"): behind such a length a hostile archive hides members from one of them. So numbers are plain octal or
GNU's base 256, and an extended header holds nothing but a name, times, owners and a comment (POSIX.1-2001
pax; GNU long names).
"""

import re
import tarfile
from typing import Protocol

from actors.publisher.archive_rules import MODES_REFUSED, Names, unsafe

EXTENSION_BYTES_MAX = 65_536  # a long name and some attributes of one member
_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512
_POSIX_MAGIC = b"ustar\x00"
_MAGIC_AT, _PREFIX_AT, _PREFIX_END = 257, 345, 500  # of a header block, in bytes
_MODE, _SIZE, _CHECKSUM = slice(100, 108), slice(124, 136), slice(148, 156)
_OCTAL = re.compile(rb" *[0-7]+[ \0]*")
_BASE_256 = b"\x80"
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE)
_PAX_LENGTH = re.compile(rb"[1-9][0-9]{0,4} ")
_PAX_NUMBERS = frozenset({b"atime", b"mtime", b"ctime", b"uid", b"gid"})
_NUMBER = re.compile(rb"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_PAX_HARMLESS = _PAX_NUMBERS | {
    b"uname",
    b"gname",
    b"comment",
    b"LIBARCHIVE.creationtime",
    b"SCHILY.dev",
    b"SCHILY.ino",
    b"SCHILY.nlink",
}


class Reader(Protocol):
    """An unpacked tar, forward only."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, empty only at the end."""


def check_tar(source: Reader, names: Names) -> None:
    """Read a tar from its start to its end.

    Raises:
        RejectedError: ``bundle_unsafe``.
        EOFError, ValueError, tarfile.TarError: it is not whole.
    """
    long_name: str | None = None
    while any(header := _exactly(source, _TAR_BLOCK)):
        names.count()
        member = _member(header)
        if member.type in _EXTENSIONS:
            named = _extension(source, member)
            if named is not None and long_name is not None:
                raise unsafe(f"the member after {long_name[:80]!a} is named twice")
            long_name = long_name if named is None else named
            continue
        name, long_name = long_name or member.name, None
        _check_member(header, member, name)
        names.add(name, folder=member.type == tarfile.DIRTYPE)
        _skip(source, _padded(member.size))
    # Whatever follows the end mark is unpacked by some tools, and may be a bomb.
    while block := source.read(_BLOCK_BYTES):
        if block.strip(b"\0"):
            raise unsafe("something follows its end")


def is_header(block: bytes) -> bool:
    """Whether a tar could begin with this block."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _member(header: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    size = header[_SIZE]
    if not (
        (_OCTAL.fullmatch(size) or size.startswith(_BASE_256))
        and _OCTAL.fullmatch(header[_MODE])
        and _OCTAL.fullmatch(header[_CHECKSUM])
    ):
        raise unsafe("a member has a length, mode or checksum that tools read differently")
    if not (0 <= member.uid < 2**32 and 0 <= member.gid < 2**32 and 0 <= member.mtime < 2**40):
        raise unsafe("a member has an owner or a time that no system has")
    return member


def _check_member(header: bytes, member: tarfile.TarInfo, name: str) -> None:
    if not header.startswith(_POSIX_MAGIC, _MAGIC_AT) and any(header[_PREFIX_AT:_PREFIX_END]):
        raise unsafe(f"the member {member.name[:80]!a} has a name that tools read differently")
    folder = member.type == tarfile.DIRTYPE
    if not folder and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise unsafe(f"the member {name[:80]!a} is a link or a special file")
    if member.mode & MODES_REFUSED and not folder:
        raise unsafe(f"the member {name[:80]!a} asks to run as another user")
    if folder and member.size:
        raise unsafe(f"the folder {name[:80]!a} has content")


def _extension(source: Reader, member: tarfile.TarInfo) -> str | None:
    """Read an extended header; returns the name that it gives to the next member, if it gives one."""
    if member.size > EXTENSION_BYTES_MAX:
        raise unsafe("a member's extended header is too large")
    block = _exactly(source, _padded(member.size))
    text = block[: member.size]
    if member.type == tarfile.GNUTYPE_LONGNAME:
        # GNU tar reads on to the first zero byte, beyond the length.
        if not block.endswith(b"\0") or any(block[member.size :]):
            raise unsafe("a member has a name that tools read differently")
        name = text.rstrip(b"\0").decode()
    else:
        records = _pax_records(text)
        of_all = member.type == tarfile.XGLTYPE
        for key in records:
            if key not in _PAX_HARMLESS and (key != b"path" or of_all):
                raise unsafe(f"its extended headers set {key[:80].decode('utf-8', 'replace')!a}")
            if key in _PAX_NUMBERS and not _NUMBER.fullmatch(records[key]):
                raise ValueError("a pax number is none")
        if b"path" not in records:
            return None
        name = records[b"path"].decode()
    if not name:
        raise unsafe("an extended header takes a member's name away")
    return name


def _pax_records(text: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        length = _PAX_LENGTH.match(text, at)
        end = at + int(length[0]) if length else 0
        key, equals, value = text[length.end() : end - 1].partition(b"=") if length else (b"", b"", b"")
        if not equals or end > len(text) or text[end - 1 : end] != b"\n":
            raise ValueError("malformed pax record")
        if key in records:
            raise unsafe(f"its extended headers set {key[:80].decode('utf-8', 'replace')!a} twice")
        records[key] = value
        at = end
    return records


def _exactly(source: Reader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = source.read(size - len(data))
        if not block:
            raise EOFError
        data += block
    return data


def _skip(source: Reader, size: int) -> None:
    while size:
        block = source.read(min(size, _BLOCK_BYTES))
        if not block:
            raise EOFError
        size -= len(block)


def _padded(size: int) -> int:
    return -(-size // _TAR_BLOCK) * _TAR_BLOCK
