"""Zip archives: what the directory says, what each member says of itself, and what comes out must agree.

Tools disagree on which of them to believe, and a hostile archive shows each another content. So members lie
one after the other without gap or overlap, from the first byte to the directory; each one's own header has
the directory's name, method and lengths; and there is no second name hidden in an extra field.
"""

import stat
import struct
import zipfile
from typing import IO

from actors.publisher.archive_rules import MODES_REFUSED, Budget, Names, unsafe

ZIP_DIRECTORY_BYTES_MAX = 16 * 2**20  # 20,000 members with names of 512 characters
_BLOCK_BYTES = 2**20
_END = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_END_BYTES = 22
_ZIP64_LOCATOR_BYTES = 20
_END_BYTES_MAX = _END_BYTES + 65_535  # with the longest comment
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_DESCRIPTOR_BYTES = (12, 16)  # CRC and both lengths, without or with a signature
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075


def check_zip(bundle: IO[bytes], size: int, names: Names, budget: Budget) -> None:
    """Read a zip of ``size`` bytes whole.

    Raises:
        RejectedError: ``bundle_unsafe``.
        zipfile.BadZipFile, EOFError, RuntimeError and others: it is not whole, or not readable by every tool.
    """
    end = _bound_directory(bundle, size)
    with zipfile.ZipFile(bundle) as archive:
        members = archive.infolist()
        for member in members:
            _check_member(member)
            # ``orig_filename``: zipfile replaces separators and cuts at a zero byte, other tools do not.
            names.add(member.orig_filename, folder=member.is_dir())
        _check_places(bundle, members, archive.start_dir, end)
        for member in members:
            with archive.open(member) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    budget.spend(len(block))


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename[:80]
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise unsafe(f"the member {name!a} is a link or a special file")
    if mode & MODES_REFUSED:
        raise unsafe(f"the member {name!a} asks to run as another user")
    if member.is_dir() and member.file_size:
        raise unsafe(f"the folder {name!a} has content")
    if not member.orig_filename.isascii() and not member.flag_bits & _UTF8:
        raise unsafe(f"the member name {name!a} does not say its encoding")
    _check_extra(member.extra, name)


def _check_extra(extra: bytes, name: str) -> None:
    while len(extra) >= 4:  # noqa: PLR2004 - an id and a length of two bytes each
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _ZIP64_EXTRA:
            raise unsafe("it has members in zip64 form; pack what is that large as tar")
        if kind == _UNICODE_PATH_EXTRA:
            raise unsafe(f"the member {name!a} has a second name")
        extra = extra[4 + length :]


def _check_places(bundle: IO[bytes], members: list[zipfile.ZipInfo], directory_at: int, end: int) -> None:
    """Each member begins where the one before it ends, and its own header agrees with the directory."""
    bundle.seek(0)
    at = 0
    slack = 0  # an optional descriptor's signature of four bytes
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset not in (at, at + slack):
            raise unsafe("its members overlap, or something lies between them")
        bundle.seek(member.header_offset)
        head = bundle.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            raise EOFError
        _, _, flags, method, _, _, _, packed, unpacked, name_bytes, extra_bytes = _LOCAL.unpack(head)
        described = bool(flags & _DESCRIPTOR)
        sizes = (0, 0) if described else (member.compress_size, member.file_size)
        same_sizes = (packed, unpacked) in (sizes, (member.compress_size, member.file_size))
        watched = _ENCRYPTED | _DESCRIPTOR | _UTF8
        if method != member.compress_type or not same_sizes or (flags ^ member.flag_bits) & watched:
            raise unsafe(f"the member {member.filename[:80]!a} and the directory contradict each other")
        bundle.seek(name_bytes, 1)
        _check_extra(bundle.read(extra_bytes), member.filename[:80])
        at = member.header_offset + _LOCAL.size + name_bytes + extra_bytes + member.compress_size
        at, slack = (at + _DESCRIPTOR_BYTES[0], 4) if described else (at, 0)
    if directory_at not in (at, at + slack) or directory_at > end:
        raise unsafe("its members overlap, or something lies between them")


def _bound_directory(bundle: IO[bytes], size: int) -> int:
    """``zipfile`` reads the whole directory into memory, so its claimed length is bounded first.

    Returns where the directory ends.
    """
    bundle.seek(max(0, size - _END_BYTES_MAX))
    tail = bundle.read(_END_BYTES_MAX)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise EOFError
    if tail[max(0, at - _ZIP64_LOCATOR_BYTES) : at].startswith(_ZIP64_LOCATOR):
        raise unsafe("it is a zip64 archive; pack what is that large as tar")
    directory_bytes, directory_at, comment_bytes = struct.unpack_from("<LLH", tail, at + 12)
    if directory_bytes > ZIP_DIRECTORY_BYTES_MAX:
        raise unsafe("its directory is too large")
    end: int = size - len(tail) + at
    if directory_at + directory_bytes != end or at + _END_BYTES + comment_bytes != len(tail):
        raise unsafe("something lies before it, behind it or around its directory")
    return end
