"""The commands of docs/audit.md check a proof file of our own code, and refuse one that was altered."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem
from tests.fakes.audit_proofs import KEY, proof_file

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
PROGRAM = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
COMMANDS = re.search(r"```sh\n(python3 check\.py.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def check(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (tmp_path / "check.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "platform.pem").write_text(public_key_pem(KEY.public_key))

    def run(data):
        (tmp_path / "evt.log-proof.json").write_bytes(data)
        script = "set -e\n" + COMMANDS.replace("python3", sys.executable)
        told = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=False)
        return told.returncode, told.stdout.decode()

    return run


def test_a_proof_is_checked_with_standard_tools(check):
    status, told = check(proof_file().dumps())
    assert status == 0
    assert told.startswith(proof_file().record)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"order event", b"order Event"), (b'"position":2', b'"position":3'), (b"\\n6\\n", b"\\n5\\n")],
)
def test_an_altered_proof_is_refused(check, old, new):
    data = proof_file().dumps()
    assert old in data
    assert check(data.replace(old, new))[0] != 0


def test_a_head_that_another_key_signed_is_refused(check):
    data = proof_file(DevelopmentKeyFile(b"x" * 32, b"w" * 32)).dumps()
    assert check(data)[0] != 0
