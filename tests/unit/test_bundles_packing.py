import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cluster.bundles import pack, read_info
from cluster.demo.seeding import BUNDLES, CATALOGUE
from domain.strict_json import DocumentError


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "logline"
    shutil.copytree(CATALOGUE / "logline", copy)
    return copy


@pytest.mark.parametrize("name", BUNDLES)
def test_the_demo_bundles_pass_their_own_tests(name):
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "discover", "-s", "tests"],
        cwd=CATALOGUE / name,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BUNDLES)
def test_the_demo_bundles_run_once_unpacked(name, tmp_path):
    bundle = pack(CATALOGUE / name)
    with tarfile.open(fileobj=bundle.file) as archive:
        archive.extractall(tmp_path, filter="data")
    entry = tmp_path / bundle.entry_member
    done = subprocess.run([entry, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    top = entry.parent
    assert {"LICENSE", "README.md", "marketplace.json"} <= {path.name for path in top.iterdir()}
    assert set(bundle.info.prices) == {"USD", "EUR", "JPY"}


def test_packing_depends_on_names_and_contents_alone(folder, tmp_path):
    first = pack(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    other = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(folder, other)
    (other / "README.md").chmod(0o600)
    assert pack(other) == first
    (other / "README.md").write_text("changed")
    assert pack(other).sha256 != first.sha256


def test_members_carry_no_trace_of_the_machine(folder):
    bundle = pack(folder)
    with tarfile.open(fileobj=bundle.file) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert len({member.mtime for member in members}) == 1
    assert {oct(member.mode) for member in members} == {"0o644", "0o755"}
    bundle.file.seek(0)
    assert gzip.decompress(bundle.file.read())


def change(folder, **changes):
    path = folder / "marketplace.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "Log Line"}, "name_invalid"),
        ({"name": "log--line"}, "name_invalid"),
        ({"version": "1.2"}, "version_invalid"),
        ({"version": None}, "field_missing"),
        ({"extra": 1}, "field_unknown"),
        ({"platform": "amiga"}, "platform_unknown"),
        ({"prices": {}}, "prices_invalid"),
        ({"prices": {"USD": 19.99}}, "prices_invalid"),
        ({"prices": {"USD": True}}, "prices_invalid"),
        ({"prices": {"usd": 1}}, "prices_invalid"),
        ({"prices": {"USD": -1}}, "prices_invalid"),
        ({"title": "x" * 500}, "field_invalid"),
        ({"licence_policy": {"kind": "forever"}}, "licence_policy_unknown"),
        ({"entry_point": "../logline.py"}, "entry_point_invalid"),
        ({"entry_point": "absent.py"}, "entry_point_invalid"),
    ],
)
def test_a_wrong_manifest_is_refused_by_code(folder, changes, code):
    change(folder, **changes)
    with pytest.raises(DocumentError) as caught:
        pack(folder)
    assert caught.value.code == code


def test_a_timed_licence_may_be_offered(folder):
    change(folder, licence_policy={"kind": "timed", "days": 30})
    assert read_info(folder).licence_policy.days == 30


def test_links_special_files_and_odd_names_are_refused(folder):
    (folder / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(DocumentError, match="link"):
        pack(folder)
    (folder / "passwd").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(DocumentError, match="special"):
        pack(folder)
    (folder / "pipe").unlink()
    (folder / "new\nline").write_text("x")
    with pytest.raises(DocumentError, match="portable"):
        pack(folder)


@pytest.mark.parametrize("name", [".env", "id_rsa", "server.key", "cert.pem"])
def test_secrets_are_not_packed_by_mistake(folder, name):
    (folder / name).write_text("x")
    with pytest.raises(DocumentError, match="secret"):
        pack(folder)


def test_without_a_manifest_the_text_says_what_is_missing(tmp_path):
    with pytest.raises(DocumentError, match=r"marketplace\.json"):
        pack(Path(tmp_path))
