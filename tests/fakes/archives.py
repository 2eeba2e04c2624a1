"""Archives of tests: tars and zips member by member, and what the publisher says to them."""

import io
import tarfile
import zipfile

import pytest

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


def called(data):
    """The name that a bundle of this content has."""
    suffixes = {b"PK": "zip", b"\x1f\x8b": "tar.gz", b"BZ": "tar.bz2", b"\xfd7": "tar.xz"}
    return f"app-1.0.{suffixes.get(bytes(data[:2]), 'tar')}"


def check(data, name=None):
    check_archive(io.BytesIO(data), len(data), name or called(data))


def refuse(data, words, name=None):
    with pytest.raises(RejectedError) as refused:
        check(data, name)
    assert refused.value.code == "bundle_unsafe"
    assert words in refused.value.detail


GOOD = (
    ("app-1.0/", None, {"type": tarfile.DIRTYPE}),
    ("app-1.0/main.py", b"print()"),
    ("app-1.0/README", b"x" * 5000),
)


TYPICAL = tar(*GOOD)


def with_checksum(header):
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


ONE = zipped(("app/a", b"a" * 500))
