"""Hostile zips of every known kind, and ordinary ones; zip64 where it cannot be misread."""

import io
import random
import struct
import zipfile

import pytest

from actors.publisher import archive_rules, zip_archives
from tests.fakes.archives import ONE, check, refuse, zipped


def test_an_ordinary_zip_passes():
    check(
        zipped(
            ("app/", b""), ("app/main.py", b"print()"), ("app/data.bin", random.Random(1).randbytes(10_000))
        )
    )


def test_a_link_in_a_zip_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("app/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refuse(out.getvalue(), "link or a special file")


def test_a_zip_bomb_is_refused_by_what_comes_out(monkeypatch):
    monkeypatch.setattr(archive_rules, "RATIO_FREE_BYTES", 1_000_000)
    data = zipped(("app/zeros", bytes(20_000_000)))
    refuse(data, "unpacks to far more")
    # Lying about the size does not help: what comes out is counted.
    lie = data.replace(struct.pack("<L", 20_000_000), struct.pack("<L", 10))
    refuse(lie, "unpacks to far more")


def test_an_encrypted_zip_member_is_refused():
    data = bytearray(zipped(("app/a", b"x" * 100)))
    data[6] |= 1  # the flag in the local header
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    refuse(bytes(data), "encrypted")


def test_a_zip_directory_that_claims_gigabytes_is_refused():
    data = bytearray(zipped(("app/a", b"x")))
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 2**31)
    refuse(bytes(data), "directory is too large")


def test_another_name_in_the_local_header_is_refused():
    data = zipped(("app/good", b"x"), ("app/more", b"y"))
    refuse(data.replace(b"app/good", b"app/evil", 1), "contradict")


def two_zip_members():
    return bytearray(zipped(("app/a", b"a" * 500), ("app/b", b"b" * 500), compression=zipfile.ZIP_STORED))


def central(data, number):
    """Where a member's entry in the directory begins."""
    at = data.index(b"PK\x01\x02")
    for _ in range(number):
        at = data.index(b"PK\x01\x02", at + 4)
    return at


def test_members_that_overlap_are_refused():
    data = two_zip_members()
    second, first = central(data, 1), central(data, 0)
    # The second member's entry shows the first one's bytes, under its own name there too.
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    refuse(bytes(data), "")


@pytest.mark.parametrize("where", ["before", "between", "before the directory", "behind"])
def test_bytes_that_belong_to_no_member_are_refused(where):
    data = two_zip_members()
    hidden = b"PK\x03\x04 hidden"
    at = {
        "before": 0,
        "between": data.index(b"PK\x03\x04", 4),
        "before the directory": data.index(b"PK\x01\x02"),
        "behind": len(data),
    }[where]
    data[at:at] = hidden
    if where != "behind":
        end = data.rindex(b"PK\x05\x06")
        (directory_at,) = struct.unpack_from("<L", data, end + 16)
        data[end + 16 : end + 20] = struct.pack("<L", directory_at + len(hidden))
        for number in range(2):
            entry = central(data, number) + 42
            (offset,) = struct.unpack_from("<L", data, entry)
            if offset >= at:
                data[entry : entry + 4] = struct.pack("<L", offset + len(hidden))
    refuse(bytes(data), "something lies")


def test_a_comment_is_fine_and_must_end_with_the_file():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("app/a", b"a")
        archive.comment = b"c" * 40
    check(out.getvalue())
    refuse(out.getvalue()[:-1], "something lies")
    refuse(out.getvalue() + b"x", "something lies")


def test_a_zip_written_as_a_stream_passes():
    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("app/a", "app/b"):
            archive.writestr(name, b"x" * 5_000)
    assert b"PK\x07\x08" in stream.data
    check(bytes(stream.data))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, b"\x08\x00"),
        (18, b"\x01\x00\x00\x00"),
        (22, b"\xff\xff\x00\x00"),
        (6, b"\x01\x00"),
        (6, b"\x08\x00"),
    ],
    ids=["method", "packed", "unpacked", "encrypted", "described"],
)
def test_a_member_that_contradicts_the_directory_is_refused(offset, value):
    data = two_zip_members()
    data[offset : offset + len(value)] = value
    refuse(bytes(data), "")


@pytest.mark.parametrize("kind", [0x0001, 0x7075])
def test_a_second_name_or_length_in_an_extra_field_is_refused(kind):
    extra = struct.pack("<HH", kind, 16) + bytes(16)
    info = zipfile.ZipInfo("app/a")
    info.extra = extra
    whole = bytearray(zipped((info, b"x"), ("app/b", b"b"), compression=zipfile.ZIP_STORED))
    refuse(bytes(whole), "")
    # In the member's own header only.
    at = central(whole, 0)
    (name_bytes,) = struct.unpack_from("<H", whole, at + 28)
    whole[at + 30 : at + 32] = b"\0\0"
    del whole[at + 46 + name_bytes : at + 46 + name_bytes + len(extra)]
    end = whole.rindex(b"PK\x05\x06")
    (directory_bytes,) = struct.unpack_from("<L", whole, end + 12)
    whole[end + 12 : end + 16] = struct.pack("<L", directory_bytes - len(extra))
    refuse(bytes(whole), "zip64" if kind == 1 else "second name")


@pytest.mark.parametrize("kind", [0x756E, 0x7070, 0x0017, 0])
def test_an_extra_field_that_few_tools_read_is_refused(kind):
    info = zipfile.ZipInfo("app/a")
    info.extra = struct.pack("<HH", kind, 4) + bytes(4)
    refuse(zipped((info, b"x")), "extra field")
    info.extra = struct.pack("<HH5s", 0x5455, 5, bytes(5))  # a time
    check(zipped((info, b"x")))
    info.extra = struct.pack("<HH5s", 0x5455, 6, bytes(5))  # cut
    refuse(zipped((info, b"x")), "extra field")


def test_a_zip_name_without_an_encoding_is_refused():
    data = bytearray(zipped(("app/xx", b"x"), compression=zipfile.ZIP_STORED))
    for at in (data.index(b"app/xx"), data.rindex(b"app/xx")):
        data[at : at + 6] = b"app/\xc3\xa9"
    refuse(bytes(data), "encoding")


def test_a_zip_folder_with_content_is_refused():
    refuse(zipped(("app/", b"content"), ("app/a", b"a")), "has content")


@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (3, 3), (0, 0)])
def test_a_member_count_that_is_not_the_directorys_is_refused(counts):
    """Some tools stop at the count and others at the directory's end: each would show another content."""
    data = two_zip_members()
    end = data.rindex(b"PK\x05\x06")
    data[end + 8 : end + 12] = struct.pack("<HH", *counts)
    refuse(bytes(data), "")


def test_a_directory_of_more_entries_than_members_is_refused_unread():
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    count = zip_archives.ZIP_DIRECTORY_BYTES_MAX // len(entry)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 7, 7, count * len(entry), 4, 0)
    refuse(b"PK\x03\x04" + entry * count + end, "in each other's way")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_method_that_not_every_tool_reads_is_refused(method):
    """An LZMA member may also ask for a dictionary of 4 GiB."""
    refuse(zipped(("app/a", b"a" * 100), compression=method), "not every tool reads")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("app/x", 0o40755 << 16), ("app/x", 0x10), ("app/x/", 0o100644 << 16)],
    ids=["folder by mode", "folder by attribute", "file by mode"],
)
def test_a_folder_to_some_tools_and_a_file_to_others_is_refused(name, attributes):
    info = zipfile.ZipInfo(name)
    info.external_attr = attributes
    refuse(zipped(("app/a", b"a"), (info, b"")), "a file to others")


def test_a_wrong_checksum_is_refused_wherever_it_stands():
    plain = zipped(("app/a", b"a" * 50), compression=zipfile.ZIP_STORED)
    altered = bytearray(plain)
    altered[altered.index(b"a" * 50)] ^= 1
    refuse(bytes(altered), "contradict")
    for at in (14, plain.index(b"PK\x01\x02") + 16):  # in the member's header, in the directory
        altered = bytearray(plain)
        altered[at] ^= 1
        refuse(bytes(altered), "contradict")


def test_bytes_behind_the_end_of_what_is_inflated_are_refused():
    data = bytearray(zipped(("app/a", b"a" * 500)))
    at = data.index(b"PK\x01\x02")
    (packed,) = struct.unpack_from("<L", data, 18)
    hidden = b"hidden"
    for place in (18, at + 20):
        data[place : place + 4] = struct.pack("<L", packed + len(hidden))
    end = data.rindex(b"PK\x05\x06")
    data[end + 16 : end + 20] = struct.pack("<L", at + len(hidden))
    data[at:at] = hidden
    refuse(bytes(data), "contradict")


class Stream(io.RawIOBase):
    """A target that cannot seek, so that lengths come in a descriptor behind each member."""

    def __init__(self):
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.data += data
        return len(data)


def with_zip64_members(target):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("app/a", "app/b"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(name.encode() * 1_000)


def as_zip64(data, *, extra=b"", values=None, record=None, locator=None, small=None):
    """Rewrite an archive of one member so that every length in its directory is one of 64 bits."""
    data = bytearray(data)
    at, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = bytearray(data[at:end])
    packed, unpacked = struct.unpack_from("<LL", entry, 20)
    (name_bytes,) = struct.unpack_from("<H", entry, 28)
    wide = struct.pack("<HH3Q", 1, 24 + len(extra), *(values or (unpacked, packed, 0))) + extra
    entry[20:28] = b"\xff" * 8
    entry[42:46] = b"\xff" * 4
    entry[30:32] = struct.pack("<H", len(wide))
    entry[46 + name_bytes :] = wide
    end_record = record or struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    where = locator or struct.pack("<4sLQL", b"PK\x06\x07", 0, at + len(entry), 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", *(small or (0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1)), 0)
    return bytes(data[:at] + entry + end_record + where + last)


def test_zip64_passes_where_every_tool_reads_it_alike():
    seekable, stream = io.BytesIO(), Stream()
    with_zip64_members(seekable)
    with_zip64_members(stream)
    for data in (seekable.getvalue(), bytes(stream.data), as_zip64(ONE)):
        assert struct.pack("<H", 1) in data
        check(data)
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    at = ONE.index(b"PK\x01\x02")
    length = len(as_zip64(ONE)) - at - 98
    # The smaller record may also say the same.
    check(as_zip64(ONE, small=(0, 0, 1, 1, length, at)))


@pytest.mark.parametrize(
    "changes",
    [
        {"small": (0, 0, 2, 2, 2**32 - 1, 2**32 - 1)},
        {"small": (0, 0, 0xFFFF, 0xFFFF, 99, 2**32 - 1)},
        {"small": (0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 0)},
        {"extra": bytes(4)},
        {"extra": bytes(8)},
        {"values": (501, 100, 0)},
        {"values": (500, 2**63, 0)},
        {"values": (500, 15, 2**63)},
        {"record": struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 80, 50)},
        {"record": struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 2**40, 50)},
        {"record": struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 60, 45, 45, 0, 0, 1, 1, 80, 50)},
        {"locator": struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)},
        {"locator": struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 2)},
    ],
)
def test_zip64_records_that_tools_read_differently_are_refused(changes):
    refuse(as_zip64(ONE, **changes), "")


def test_lengths_of_64_bits_without_a_need_are_refused():
    """Some tools read them wherever they stand, others only where 32 bits are all ones."""
    info = zipfile.ZipInfo("app/a")
    info.extra = struct.pack("<HHQQ", 1, 16, 7, 7)
    refuse(zipped((info, b"x")), "")
    missing = bytearray(ONE)
    at = missing.index(b"PK\x01\x02")
    missing[at + 20 : at + 24] = b"\xff" * 4
    refuse(bytes(missing), "zip64")


def test_a_quoted_overlap_is_refused():
    """One member's content begins with another member, whole: a bomb that grows with the square."""
    inner = bytes(zipped(("app/b", b"b" * 500), compression=zipfile.ZIP_STORED))
    inner = inner[: inner.index(b"PK\x01\x02")]
    data = bytearray(zipped(("app/a", inner), ("app/b", b"b" * 500), compression=zipfile.ZIP_STORED))
    second = central(data, 1)
    where = data.index(inner)
    data[second + 42 : second + 46] = struct.pack("<L", where)
    # The member that nothing points to any more goes.
    start = data.index(b"PK\x03\x04", where + len(inner))
    end = data.index(b"PK\x01\x02")
    cut = end - start
    del data[start:end]
    at = data.rindex(b"PK\x05\x06")
    (directory_at,) = struct.unpack_from("<L", data, at + 16)
    data[at + 16 : at + 20] = struct.pack("<L", directory_at - cut)
    refuse(bytes(data), "overlap")
