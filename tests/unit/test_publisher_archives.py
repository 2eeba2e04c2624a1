"""Which bundles are safe, whatever their format: names, bombs, and what is two things at once."""

import bz2
import contextlib
import gzip
import lzma
import random
import tarfile
import zipfile

import pytest

from actors.publisher import archive_rules, archives
from domain.errors import RejectedError
from tests.fakes.archives import GOOD, ONE, TYPICAL, check, refuse, tar, with_checksum, zipped


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_ordinary_tar_passes(compress):
    check(compress(TYPICAL))


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


@pytest.mark.parametrize(
    "name",
    ["app/CON", "app/nul.txt", "app/nul .txt", "app/conin$",
     "app/Com1.tar.gz", "app/lpt\u00b9", "app/readme.", "app/readme ", "app./x",
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


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (TYPICAL, "app.zip"),
        (TYPICAL, "app.tar.gz"),
        (TYPICAL, "app"),
        (gzip.compress(TYPICAL), "app.tar"),
        (gzip.compress(TYPICAL), "app.zip"),
        (lzma.compress(TYPICAL), "app.tar.bz2"),
        (ONE, "app.tar"),
        (ONE, "app.TGZ"),
    ],
)
def test_a_name_that_says_another_format_is_refused(data, name):
    """Tools choose by name or by content; a file that is two archives would show each another one."""
    refuse(data, "called" if name in ("app.TGZ", "app.tar") and data is ONE else "name that ends in", name)


@pytest.mark.parametrize(
    ("data", "name"),
    [(ONE, "app-1.0-py3-none-any.whl"), (ONE, "App.JAR"), (gzip.compress(TYPICAL), "app.TGZ")],
)
def test_usual_names_pass(data, name):
    check(data, name)


def test_a_zip_that_is_a_tar_as_well_is_refused():
    header = bytearray(tarfile.TarInfo("app/a").tobuf(tarfile.USTAR_FORMAT))
    header[0:4] = b"PK\x03\x04"
    refuse(with_checksum(header) + bytes(1024), "a tar to others", "app.zip")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_several_streams_or_anything_behind_the_first_are_refused(compress):
    half = len(TYPICAL) // 2
    refuse(compress(TYPICAL[:half]) + compress(TYPICAL[half:]), "")
    refuse(compress(TYPICAL) + compress(b""), "follows its end")
    refuse(compress(TYPICAL) + b"more", "follows its end")
    refuse(compress(TYPICAL) + bytes(512), "follows its end")


def test_headers_that_belong_to_no_member_are_bounded(monkeypatch):
    monkeypatch.setattr(archive_rules, "MEMBERS_MAX", 10)
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    check(header * 19 + tar(("app/a", b"x")))
    refuse(header * 21 + TYPICAL, "more than 10 members")


@pytest.mark.parametrize("pack", [tar, zipped])
def test_folders_are_bounded_also_those_that_only_stand_in_names(pack, monkeypatch):
    monkeypatch.setattr(archive_rules, "FOLDERS_MAX", 100)
    check(
        pack(
            ("/".join("f" * 100) + "/x", b""),
        )
    )
    refuse(pack(*((f"{n}/" + "/".join("f" * 30) + "/x", b"") for n in range(4))), "more than 100 folders")


@pytest.mark.parametrize("pack", [tar, zipped])
def test_the_time_for_unpacking_is_bounded(pack, monkeypatch):
    """A billion empty blocks, or the slowest of decompressors, hold a thread for so long and no longer."""
    monkeypatch.setattr(archive_rules, "UNPACKING_S_MAX", -1.0)
    refuse(pack(("app/a", b"x" * 5_000)), "longer than")
