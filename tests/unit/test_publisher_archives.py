"""Which bundles are safe: hostile tars and zips of every known kind, and ordinary ones."""

import bz2
import contextlib
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile

import pytest

from actors.publisher import archive_rules, archives
from actors.publisher.archives import check_archive
from domain.errors import RejectedError


def tar(*members, mode="w", tar_format=tarfile.PAX_FORMAT):
    """Members are (name, content or type, changes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tar_format) as archive:
        for name, content, *changes in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            for key, value in changes[0].items() if changes else ():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def check(data):
    check_archive(io.BytesIO(data), len(data))


def refuse(data, words):
    with pytest.raises(RejectedError) as refused:
        check(data)
    assert refused.value.code == "bundle_unsafe"
    assert words in refused.value.detail


GOOD = (
    ("app-1.0/", None, {"type": tarfile.DIRTYPE}),
    ("app-1.0/main.py", b"print()"),
    ("app-1.0/README", b"x" * 5000),
)
TYPICAL = tar(*GOOD)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_ordinary_tar_passes(compress):
    check(compress(TYPICAL))


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_unicode_names_pass_in_every_dialect(tar_format):
    names = ["app/" + "/".join(["folder" * 5] * 3) + "/file.py"]
    if tar_format != tarfile.USTAR_FORMAT:
        names += ["app/größe.txt", "app/" + "n" * 200]
    check(tar(*[(name, b"x") for name in names], tar_format=tar_format))


def test_a_tar_that_git_made_passes():
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c" * 40}
    ) as archive:
        archive.addfile(tarfile.TarInfo("app/a"), io.BytesIO())
    check(out.getvalue())


def test_an_ordinary_zip_passes():
    check(
        zipped(
            ("app/", b""), ("app/main.py", b"print()"), ("app/data.bin", random.Random(1).randbytes(10_000))
        )
    )


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../evil",
        "app/../../evil",
        "app/..",
        "./../evil",
        "C:/evil",
        "c:evil",
        "app\\..\\evil",
        "app//evil",
        "app/./evil",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
        "x" * 600,
    ],
)
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_name_that_leaves_the_bundle_is_refused(pack, name):
    refuse(pack(("app/good", b"x"), (name, b"x")), "member name")


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ],
)
def test_links_and_devices_are_refused(kind):
    refuse(tar(*GOOD, ("app-1.0/x", None, {"type": kind, "linkname": "main.py"})), "link or a special file")


def test_a_link_in_a_zip_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("app/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refuse(out.getvalue(), "link or a special file")


@pytest.mark.parametrize(
    "names",
    [("app/a", "app/a"), ("app/a", "app/A"), ("app/a", "app/a/b"), ("app/a/b", "app/a"), ("app/ß", "app/SS")],
)
@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_each_others_way_are_refused(pack, names):
    refuse(pack(*[(name, b"x") for name in names]), "each other's way")


def test_a_folder_named_again_is_fine():
    folder = ("app/", None, {"type": tarfile.DIRTYPE})
    check(tar(folder, ("app/a", b"x"), folder))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_bomb_is_refused(compress, monkeypatch):
    monkeypatch.setattr(archive_rules, "RATIO_FREE_BYTES", 1_000_000)
    refuse(compress(tar(("app/zeros", bytes(20_000_000)))), "unpacks to far more")


def test_a_zip_bomb_is_refused_by_what_comes_out(monkeypatch):
    monkeypatch.setattr(archive_rules, "RATIO_FREE_BYTES", 1_000_000)
    data = zipped(("app/zeros", bytes(20_000_000)))
    refuse(data, "unpacks to far more")
    # Lying about the size does not help: what comes out is counted, and the reader stops at the lie.
    lie = data.replace(struct.pack("<L", 20_000_000), struct.pack("<L", 10))
    refuse(lie, "not a whole tar or zip")


def test_a_bomb_behind_the_end_mark_is_refused(monkeypatch):
    monkeypatch.setattr(archive_rules, "RATIO_FREE_BYTES", 1_000_000)
    refuse(gzip.compress(TYPICAL + bytes(20_000_000)), "unpacks to far more")


def test_something_behind_the_end_is_refused():
    refuse(TYPICAL + tar(("../evil", b"x")), "follows its end")
    refuse(gzip.compress(TYPICAL) + gzip.compress(tar(("../evil", b"x"))), "follows its end")
    refuse(lzma.compress(TYPICAL) + lzma.compress(tar(("../evil", b"x"))), "follows its end")


def test_an_xz_that_wants_gigabytes_of_memory_is_refused(monkeypatch):
    monkeypatch.setattr(archives, "XZ_MEMORY_BYTES_MAX", 2**20)
    refuse(lzma.compress(TYPICAL, preset=9), "not a whole tar or zip")


def test_too_many_members_are_refused(monkeypatch):
    monkeypatch.setattr(archive_rules, "MEMBERS_MAX", 10)
    refuse(tar(*[(f"app/{n}", b"") for n in range(11)]), "more than 10 members")
    refuse(zipped(*[(f"app/{n}", b"") for n in range(11)]), "more than 10 members")


def test_an_extended_header_of_gigabytes_is_refused_unread():
    header = bytearray(tarfile.TarInfo("././@PaxHeader").tobuf(tarfile.USTAR_FORMAT))
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**33 - 1
    header = info.tobuf(tarfile.USTAR_FORMAT)
    refuse(header + bytes(10_000), "extended header is too large")


@pytest.mark.parametrize("headers", [{"size": "5"}, {"linkpath": "/etc"}, {"GNU.sparse.major": "1"}])
def test_extended_headers_that_change_what_a_member_is_are_refused(headers):
    refuse(tar(("app/a", b"x", {"pax_headers": headers})), "extended headers set")


def test_a_path_for_all_members_is_refused():
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "/evil"}
    ) as archive:
        archive.addfile(tarfile.TarInfo("app/a"), io.BytesIO())
    refuse(out.getvalue(), "extended headers set")


def test_a_path_in_an_extended_header_is_what_counts():
    refuse(tar(("app/a", b"x", {"pax_headers": {"path": "../evil"}})), "member name")


def test_a_folder_with_content_is_refused():
    refuse(tar(("app/", b"hidden", {"type": tarfile.DIRTYPE})), "has content")


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


def test_a_zip64_archive_is_refused():
    data = zipped(("app/a", b"x"))
    end = data.rindex(b"PK\x05\x06")
    refuse(data[:end] + b"PK\x06\x07" + bytes(16) + data[end:], "zip64")


def test_another_name_in_the_local_header_is_refused():
    data = zipped(("app/good", b"x"), ("app/more", b"y"))
    refuse(data.replace(b"app/good", b"app/evil", 1), "not a whole tar or zip")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x1f\x8b",
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(100),
        b"BZh9",
        b"\xfd7zXZ\x00",
        b"MZ" + bytes(600),
        bytes(100),
    ],
)
def test_what_is_no_archive_is_refused(data):
    refuse(data, "not a whole tar or zip")


def test_an_archive_without_files_is_refused():
    refuse(tar(), "holds no file")
    refuse(zipped(("app/", b"")), "holds no file")


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_cut_archive_is_refused_wherever_it_is_cut(compress):
    data = compress(tar(*GOOD))
    # Tar pads with zeros beyond its end mark; cuts in there lose nothing.
    last = len(data) if compress is not bytes else 512 * 14
    for size in range(0, last, max(1, last // 40)):
        refuse(data[:size], "")


def test_damaged_archives_are_refused_or_harmless_and_never_crash():
    chance = random.Random(7)
    for data in (
        TYPICAL,
        gzip.compress(TYPICAL),
        zipped(("app/a", b"x" * 300), ("app/b", b"y")),
        lzma.compress(TYPICAL),
    ):
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            with contextlib.suppress(RejectedError):  # anything else would fail the test
                check(bytes(damaged))


# -- names that systems read differently -----------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["app/CON", "app/nul.txt", "app/Com1.tar.gz", "app/lpt\u00b9", "app/readme.", "app/readme ", "app./x",
     "app/main.exe:hidden", "app/" + "\u00e9" * 128],
)  # fmt: skip
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_name_that_some_system_reads_as_another_is_refused(pack, name):
    refuse(pack(("app-1/good", b"x"), (name, b"x")), "member name")


@pytest.mark.parametrize(
    "name", ["app/console.py", "app/nullable", "app/.env.sample", "app/a.b.c", "app/com10"]
)
def test_names_that_only_look_like_those_pass(name):
    check(tar((name, b"x")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("CAF\u00c9", "cafe\u0301"),
        ("\ufb01le", "file"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
@pytest.mark.parametrize("pack", [tar, zipped])
def test_two_normal_forms_of_a_name_are_in_each_others_way(pack, one, other):
    refuse(pack((f"app/{one}", b"x"), (f"app/{other}", b"x")), "each other's way")
    refuse(pack((f"app/{one}", b"x"), (f"app/{other}/x", b"x")), "each other's way")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777])
def test_a_program_that_runs_as_another_user_is_refused(mode):
    refuse(tar(("app/su", b"x", {"mode": mode})), "another user")
    info = zipfile.ZipInfo("app/su")
    info.external_attr = (0o100000 | mode) << 16
    refuse(zipped((info, b"x")), "another user")


def test_an_archive_in_the_bundle_is_a_file_like_any_other():
    check(tar(("app/inner.zip", zipped(("../evil", b"x"))), ("app/inner.tar", tar(("/evil", b"x")))))


# -- tars that tools read differently --------------------------------------------------------------


def with_checksum(header):
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("magic", [b"ustar  \0", b"\0" * 8])
def test_a_prefix_that_not_every_tool_reads_is_refused(magic):
    data = bytearray(tar(("name", b"x"), tar_format=tarfile.USTAR_FORMAT))
    data[257:265] = magic
    data[345:349] = b"app1"
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "tools read differently")


def test_a_member_that_is_named_twice_is_refused():
    pax = tar(("app/" + "p" * 200, b"x"), tar_format=tarfile.PAX_FORMAT)
    gnu = tar(("app/" + "g" * 200, b"x"), tar_format=tarfile.GNU_FORMAT)
    extended = pax[: 512 + 512]  # the pax header and its block
    refuse(extended + gnu, "named twice")
    refuse(gnu[: 512 + 512] + pax, "named twice")


@pytest.mark.parametrize("kind", [b"1", b"7", b"S", b"D", b"M", b"V", b"K", b"Z"])
def test_every_other_kind_of_tar_member_is_refused(kind):
    data = bytearray(tar(("app/x", b""), ("app/y", b"y")))
    data[156:157] = kind
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "link or a special file")


# -- zips that tools read differently --------------------------------------------------------------


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
    class Stream(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.data += data
            return len(data)

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


def test_a_zip_name_without_an_encoding_is_refused():
    data = bytearray(zipped(("app/xx", b"x"), compression=zipfile.ZIP_STORED))
    for at in (data.index(b"app/xx"), data.rindex(b"app/xx")):
        data[at : at + 6] = b"app/\xc3\xa9"
    refuse(bytes(data), "encoding")


def test_a_zip_folder_with_content_is_refused():
    refuse(zipped(("app/", b"content"), ("app/a", b"a")), "has content")
