"""Hostile tars of every known kind, and ordinary ones of every dialect."""

import io
import random
import shutil
import subprocess
import tarfile
import time

import pytest

from actors.publisher import archive_rules
from actors.publisher.tar_archives import check_tar
from domain.errors import RejectedError
from tests.fakes.archives import GOOD, TYPICAL, check, refuse, tar, with_checksum


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


def test_members_hidden_behind_a_length_are_refused():
    """To ``tarfile`` the second member holds 512 bytes; to GNU tar those are a member."""
    first = bytearray(tarfile.TarInfo("app/a").tobuf(tarfile.USTAR_FORMAT))
    first[124:136] = b"\0" + b"00000001000"
    cover = tarfile.TarInfo("app/b")
    cover.size = 512
    hidden = tarfile.TarInfo("../evil").tobuf(tarfile.USTAR_FORMAT)
    data = with_checksum(first) + cover.tobuf(tarfile.USTAR_FORMAT) + hidden + bytes(1024)
    refuse(data, "tools read differently")


@pytest.mark.parametrize("terminator", [b"\0", b" ", b" \0", b""])
def test_numbers_as_tools_write_them_pass(terminator):
    data = bytearray(tar(("app/a", b"x"), tar_format=tarfile.USTAR_FORMAT))
    data[124:136] = b"1".rjust(12 - len(terminator), b"0") + terminator
    data[100:108] = b"   644 \0"
    data[:512] = with_checksum(data[:512])
    check(bytes(data))


@pytest.mark.parametrize(
    "headers",
    [
        {"SCHILY.xattr.security.capability": "x"},
        {"LIBARCHIVE.xattr.security.capability": "x"},
        {"SCHILY.acl.access": "user::rwx"},
        {"SCHILY.realsize": "9"},
        {"hdrcharset": "BINARY"},
        {"path": ""},
    ],
)
def test_extended_headers_that_do_more_than_describe_are_refused(headers):
    refuse(tar(("app/a", b"x", {"pax_headers": headers})), "extended header")


def pax_member(records):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    padding = bytes(-len(records) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + records + padding + tar(("app/a", b"x"))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (b"16 path=app/one\n16 path=app/two\n", "twice"),
        (b"1_6 path=app/one\n", "not a whole"),
        (b"+17 path=app/one\n", "not a whole"),
        (b"016 path=app/one\n", "not a whole"),
        (b"99 path=app/one\n", "not a whole"),
        (b"3 =\n", "not a whole"),
        (b"-9 path=app/one\n", "not a whole"),
    ],
)
def test_pax_records_that_tools_read_differently_are_refused(records, words):
    refuse(pax_member(records), words)
    check(pax_member(b"16 path=app/one\n20 mtime=1600000000\n"))


def test_many_records_in_one_extended_header_cost_little():
    header = b"5 x=\n" * (65_535 // 5)
    began = time.process_time()
    refuse(pax_member(header), "extended headers set")
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("kind", [b"1", b"7", b"S", b"D", b"M", b"V", b"K", b"Z"])
def test_every_other_kind_of_tar_member_is_refused(kind):
    data = bytearray(tar(("app/x", b""), ("app/y", b"y")))
    data[156:157] = kind
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "link or a special file")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\0" + b"00000001000"),  # GNU tar steps over the zero byte and reads 512
        (slice(124, 136), b"0000000001_0"),
        (slice(124, 136), b"0o0000001000"),
        (slice(124, 136), b"+00000000000"),
        (slice(124, 136), bytes(12)),
        (slice(124, 136), b"\xff" * 12),
        (slice(100, 108), b"\0" + b"0004755"[:7]),
        (slice(100, 108), b"4_755\0\0\0"),
    ],
)
def test_a_number_that_tools_read_differently_is_refused(field, value):
    data = bytearray(tar(("app/a", b""), ("app/b", b"")))
    data[field] = value
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "tools read differently")


def test_a_long_name_that_goes_on_behind_its_length_is_refused():
    """GNU tar reads it up to the first zero byte, ``tarfile`` up to the length."""
    data = bytearray(tar(("app/" + "n" * 150, b"x"), tar_format=tarfile.GNU_FORMAT))
    data[124:136] = b"%011o\0" % 5
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "tools read differently")
    data[124:136] = b"%011o\0" % 512
    data[512:1024] = b"n" * 512  # without a zero byte in its block
    data[:512] = with_checksum(data[:512])
    refuse(bytes(data), "tools read differently")


@pytest.mark.parametrize(
    ("field", "value"),
    [("uid", 2**40), ("gid", -5), ("mtime", -(2**50))],
)
def test_an_owner_or_a_time_that_no_system_has_is_refused(field, value):
    refuse(tar(("app/a", b"x", {field: value}), tar_format=tarfile.GNU_FORMAT), "no system has")


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
def test_what_passes_is_read_alike_by_another_tool(tmp_path):
    """Damaged at random: whatever is still accepted shows ``tar`` the very names that were judged."""
    chance = random.Random(11)
    whole = [
        TYPICAL,
        tar(("app/" + "g" * 200, b"x"), ("app/b", b"y" * 600), tar_format=tarfile.GNU_FORMAT),
        pax_member(b"16 path=app/one\n20 mtime=1600000000\n"),
    ]
    accepted = 0
    while accepted < 60:
        data = bytearray(chance.choice(whole))
        at = chance.randrange(1_600)
        data[at] = chance.choice([0, 1, 32, 48, 128, 255, chance.randrange(256)])
        block = at // 512 * 512
        data[block : block + 512] = with_checksum(data[block : block + 512])
        names = JudgedNames()
        try:
            check_tar(io.BytesIO(data), names)
        except (RejectedError, ValueError, EOFError, tarfile.TarError):
            continue
        accepted += 1
        file = tmp_path / "app.tar"
        file.write_bytes(data)
        told = subprocess.run(
            ["tar", "--quoting-style=literal", "-tf", str(file)], capture_output=True, check=True
        )
        listed = [line.rstrip("/") for line in told.stdout.decode().splitlines()]
        assert listed == [one.rstrip("/") for one in names.seen]


class JudgedNames(archive_rules.Names):
    """Remembers what it was asked about."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def add(self, name, *, folder):
        self.seen.append(name)
        super().add(name, folder=folder)
