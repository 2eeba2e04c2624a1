"""Zip archives: what the directory says, what each member says of itself, and what comes out must agree.

Tools disagree on which of them to believe, and a hostile archive shows each another content. So members lie
one after the other without gap or overlap, from the first byte to the directory; each one's own header, and
the descriptor behind it, have the directory's name, method, lengths and checksum; and nothing is said in an
extra field that one tool reads and another does not. The format is read here (PKWARE's APPNOTE 6.3.10, named
by section) and not by ``zipfile``, which ignores the member count and believes what a member claims of its
dictionary. Refused: several disks, encryption, methods other than stored and deflated.

zip64 (4.5.3) is accepted where no reader can go wrong: a field of 32 bits either is the true value, or all
ones with the true one in the extra field, and the extra field holds nothing else.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from actors.publisher import archive_rules
from actors.publisher.archive_rules import MODES_REFUSED, Budget, Names, unsafe

ZIP_DIRECTORY_BYTES_MAX = 16 * 2**20  # 20,000 members with names of 512 characters
_BLOCK_BYTES = 2**20
_COMMENT_BYTES_MAX = 65_535
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_DESCRIPTORS = {12: "<LLL", 16: "<4xLLL", 20: "<LQQ", 24: "<4xLQQ"}  # 4.3.9, by length
_DESCRIPTOR_MAGIC = b"PK\x07\x08"
_END64_BYTES_BEHIND_LENGTH = 44  # without the extensible data that no tool writes
_ONES_16, _ONES_32 = 0xFFFF, 0xFFFF_FFFF
_ENCRYPTED, _DESCRIBED, _UTF8 = 0x2041, 0x8, 0x800  # flag bits, 4.4.4
_STORED, _DEFLATED = 0, 8
_DOS_FOLDER, _DOS_LABEL = 0x10, 0x08
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075
# Times, owners, and marks of Java and Android: nothing that changes what a member is.
_HARMLESS = frozenset({0x000A, 0x5455, 0x5855, 0x7855, 0x7875, 0xCAFE, 0xD935})


@dataclass(frozen=True, slots=True)
class _Directory:
    at: int
    size: int
    members: int


@dataclass(frozen=True, slots=True)
class _Member:
    """An entry of the directory. ``raw_name`` is as it stands there; lengths and places in bytes."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    unpacked: int
    at: int

    @property
    def shown(self) -> str:
        return ascii(self.raw_name[:80].decode("utf-8", "replace"))


def check_zip(bundle: IO[bytes], size: int, names: Names, budget: Budget) -> None:
    """Read a zip of ``size`` bytes whole.

    Raises:
        RejectedError: ``bundle_unsafe``.
        EOFError, ValueError, zlib.error, struct.error: it is not whole.
    """
    directory = _find_directory(bundle, size)
    bundle.seek(directory.at)
    entries = _exactly(bundle, directory.size)
    members = []
    for member, folder in _members(entries, directory.members):
        names.add(_name(member), folder=folder)
        members.append(member)
    members.sort(key=lambda one: one.at)
    at = 0
    for member, following in zip(members, [*(one.at for one in members[1:]), directory.at], strict=True):
        if member.at != at:
            raise _gap()
        _check_member(bundle, member, following, budget)
        at = following
    if at != directory.at:
        raise _gap()


def _find_directory(bundle: IO[bytes], size: int) -> _Directory:
    start = max(0, size - _END.size - _COMMENT_BYTES_MAX)
    bundle.seek(start)
    tail = bundle.read(size - start)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise EOFError
    _, disk, first_disk, here, total, length, at, comment = _END.unpack_from(tail, found)
    end = start + found
    if found + _END.size + comment != len(tail):
        raise unsafe("something lies before it, behind it or around its directory")
    if end >= _LOCATOR.size:
        bundle.seek(end - _LOCATOR.size)
        locator = _exactly(bundle, _LOCATOR.size)
        if locator.startswith(b"PK\x06\x07"):
            end, counts, length, at = _zip64_directory(
                bundle, end - _LOCATOR.size, locator, (here, total, length, at)
            )
            here, total = counts
    if disk or first_disk or here != total:
        raise unsafe("it is one of several disks")
    if length > ZIP_DIRECTORY_BYTES_MAX:
        raise unsafe("its directory is too large")
    if total > archive_rules.MEMBERS_MAX:
        raise unsafe(f"it has more than {archive_rules.MEMBERS_MAX} members")
    if at + length != end:
        raise unsafe("something lies before it, behind it or around its directory")
    return _Directory(at, length, total)


def _zip64_directory(
    bundle: IO[bytes], locator_at: int, locator: bytes, claimed: tuple[int, int, int, int]
) -> tuple[int, tuple[int, int], int, int]:
    """Read the larger end record, which must say what the smaller one says wherever that says anything."""
    _, record_disk, record_at, disks = _LOCATOR.unpack(locator)
    if record_disk or disks != 1 or record_at != locator_at - _END64.size:
        raise unsafe("its zip64 records are not where every tool looks for them")
    bundle.seek(record_at)
    magic, length, _, _, disk, first_disk, *true = _END64.unpack(_exactly(bundle, _END64.size))
    if magic != b"PK\x06\x06" or length != _END64_BYTES_BEHIND_LENGTH or disk or first_disk:
        raise unsafe("its zip64 records are not where every tool looks for them")
    ones = (_ONES_16, _ONES_16, _ONES_32, _ONES_32)
    if any(small not in (one, large) for small, large, one in zip(claimed, true, ones, strict=True)):
        raise unsafe("its two end records contradict each other")
    here, total, size, at = true
    return record_at, (here, total), size, at


def _members(entries: bytes, count: int) -> Iterator[tuple[_Member, bool]]:
    """Yield the directory's members, and whether each is a folder."""
    at = 0
    for _ in range(count):
        (magic, _, _, flags, method, _, _, crc, packed, unpacked, name_bytes, extra_bytes, comment_bytes,
         disk, _, attributes, where) = _ENTRY.unpack_from(entries, at)  # fmt: skip
        behind = at + _ENTRY.size + name_bytes
        name, extra = entries[at + _ENTRY.size : behind], entries[behind : behind + extra_bytes]
        at = behind + extra_bytes + comment_bytes
        if magic != b"PK\x01\x02" or at > len(entries):
            raise EOFError
        shown = ascii(name[:80].decode("utf-8", "replace"))
        true = _zip64_values(_extras(extra, shown), (unpacked, packed, where), shown)
        member = _Member(name, flags, method, crc, true[1], true[0], true[2])
        folder = name.endswith(b"/")
        _check_kind(member, attributes, folder=folder)
        if disk:
            raise unsafe("it is one of several disks")
        yield member, folder
    if at != len(entries):
        raise unsafe("its directory holds more members than it says")


def _check_kind(member: _Member, attributes: int, *, folder: bool) -> None:
    mode = attributes >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise unsafe(f"the member {member.shown} is a link or a special file")
    if (kind and stat.S_ISDIR(mode) != folder) or (attributes & _DOS_FOLDER and not folder):
        raise unsafe(f"the member {member.shown} is a folder to some tools and a file to others")
    if attributes & _DOS_LABEL:
        raise unsafe(f"the member {member.shown} is a link or a special file")
    if mode & MODES_REFUSED:
        raise unsafe(f"the member {member.shown} asks to run as another user")
    if folder and member.unpacked:
        raise unsafe(f"the folder {member.shown} has content")
    if member.flags & _ENCRYPTED or member.method not in (_STORED, _DEFLATED):
        raise unsafe(
            f"the member {member.shown} is encrypted, or compressed in a way that not every tool reads"
        )


def _name(member: _Member) -> str:
    if not member.raw_name.isascii() and not member.flags & _UTF8:
        raise unsafe(f"the member name {member.shown} does not say its encoding")
    return member.raw_name.decode()


def _extras(extra: bytes, shown: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while extra:
        kind, length = struct.unpack_from("<HH", extra)
        data, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH:
            raise unsafe(f"the member {shown} has a second name")
        if len(data) < length or kind in found or not (kind == _ZIP64 or kind in _HARMLESS):
            raise unsafe(f"the member {shown} has an extra field 0x{kind:04x} that not every tool reads")
        found[kind] = data
    return found


def _zip64_values(extras: dict[int, bytes], small: tuple[int, ...], shown: str) -> list[int]:
    """Put the extra field's 64 bits wherever the 32 bits are all ones: exactly as many, in this order."""
    wide = small.count(_ONES_32)
    data = extras.get(_ZIP64)
    if (data is not None) != bool(wide) or (data is not None and len(data) != 8 * wide):
        raise unsafe(f"the member {shown} has zip64 lengths that tools read differently")
    values = iter(struct.unpack(f"<{wide}Q", data or b""))
    return [next(values) if one == _ONES_32 else one for one in small]


def _check_member(bundle: IO[bytes], member: _Member, following: int, budget: Budget) -> None:
    """Check the member's own header, its content, and what lies between it and ``following``."""
    bundle.seek(member.at)
    magic, _, flags, method, _, _, crc, packed, unpacked, name_bytes, extra_bytes = _LOCAL.unpack(
        _exactly(bundle, _LOCAL.size)
    )
    name, extra = _exactly(bundle, name_bytes), _exactly(bundle, extra_bytes)
    own = _zip64_values(_extras(extra, member.shown), (unpacked, packed), member.shown)
    described = bool(flags & _DESCRIBED)
    true = [crc, *own] == [member.crc, member.unpacked, member.packed]
    later = described and [crc, *own] == [0, 0, 0]
    watched = _ENCRYPTED | _DESCRIBED | _UTF8
    if (
        magic != b"PK\x03\x04"
        or (name, method) != (member.raw_name, member.method)
        or (flags ^ member.flags) & watched
        or not (true or later)
    ):
        raise _contradiction(member)
    end = member.at + _LOCAL.size + name_bytes + extra_bytes + member.packed
    if end > following:
        raise _gap()
    _check_content(bundle, member, budget)
    if described:
        _check_descriptor(bundle, member, following - end)
    elif end != following:
        raise _gap()


def _check_content(bundle: IO[bytes], member: _Member, budget: Budget) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == _DEFLATED else None
    crc, unpacked, left = 0, 0, member.packed
    while left:
        block = _exactly(bundle, min(left, _BLOCK_BYTES))
        left -= len(block)
        if inflater is not None and inflater.eof:
            raise _contradiction(member)  # something hides behind the end of what is inflated
        for piece in (block,) if inflater is None else _inflated(inflater, block):
            budget.spend(len(piece))
            crc = zlib.crc32(piece, crc)
            unpacked += len(piece)
    whole = inflater is None or (inflater.eof and not inflater.unused_data)
    if not whole or (crc, unpacked) != (member.crc, member.unpacked):
        raise _contradiction(member)


def _inflated(inflater: "zlib._Decompress", block: bytes) -> Iterator[bytes]:
    while True:
        piece = inflater.decompress(block, _BLOCK_BYTES)
        block = inflater.unconsumed_tail
        yield piece
        if inflater.eof or (not block and len(piece) < _BLOCK_BYTES):
            return


def _check_descriptor(bundle: IO[bytes], member: _Member, length: int) -> None:
    form = _DESCRIPTORS.get(length)
    if form is None:
        raise _gap()
    data = _exactly(bundle, length)
    signed = "x" in form
    if signed != data.startswith(_DESCRIPTOR_MAGIC) or struct.unpack(form, data) != (
        member.crc,
        member.packed,
        member.unpacked,
    ):
        raise _contradiction(member)


def _exactly(bundle: IO[bytes], size: int) -> bytes:
    data = bundle.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _gap() -> Exception:
    return unsafe("its members overlap, or something lies between them")


def _contradiction(member: _Member) -> Exception:
    return unsafe(f"the member {member.shown} and the directory contradict each other")
