"""What the command line remembers between commands: pins and newest lists, also when files are hostile."""

import contextlib
import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from cluster import revocation_memory, trust
from cluster.client import ClientError
from cluster.revocation_memory import MEMORY_NAME
from cluster.trust import PINS_NAME, TrustedKeys
from domain import canonical_json, key_lists, revocations
from domain.dsse import sign_all
from domain.key_lists import EMPTY
from domain.revocations import RevocationList
from domain.signing import KeyState
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register
from tests.fakes.documents import ISSUED_AT

ROOT, OLD, NEW, OTHER = (DevelopmentKeyFile(letter * 32, b"w" * 32) for letter in (b"r", b"1", b"2", b"3"))
BASE = "http://market.test"


def believing(*signers, compromised=()):
    records = {one.key_id: register(one.public_key, ISSUED_AT) for one in signers}
    for one in compromised:
        records[one.key_id] = replace(
            records[one.key_id], state=KeyState.COMPROMISED, compromised_at=ISSUED_AT
        )
    return TrustedKeys(records, "test")


def listed(version, signer=OLD, revoked=("lic_a",)):
    one = RevocationList(version, ISSUED_AT, ISSUED_AT + timedelta(hours=24), 0, list(revoked))
    (envelope,) = sign_all(signer, revocations.PAYLOAD_TYPE, [revocations.build(one)])
    return canonical_json.dumps(revocations.document(one, json.loads(envelope.dumps())))


def refusal(work, *arguments):
    with pytest.raises(ClientError) as told:
        work(*arguments)
    return told.value.code


# -- revocation lists ----------------------------------------------------------------------------------


def test_a_platform_is_known_by_its_keys_whatever_address_its_list_came_from(tmp_path):
    revocation_memory.accept(listed(7), believing(OLD), tmp_path, BASE)
    for address in ("", "http://elsewhere.test", BASE):
        older = (revocation_memory.accept, listed(6), believing(OLD), tmp_path, address)
        assert refusal(*older) == "revocations_rolled_back"
    # Another platform's counter is its own, also where no address tells them apart.
    assert revocation_memory.accept(listed(1, OTHER), believing(OTHER), tmp_path, "").version == 1


def test_a_rotation_of_keys_does_not_bring_old_lists_back(tmp_path):
    both = believing(OLD, NEW)
    revocation_memory.accept(listed(7), both, tmp_path, BASE)
    revocation_memory.accept(listed(8, NEW), both, tmp_path, BASE)
    assert refusal(revocation_memory.accept, listed(7), both, tmp_path, BASE) == "revocations_rolled_back"
    assert (
        refusal(revocation_memory.accept, listed(8, revoked=()), both, tmp_path, "") == "revocations_forked"
    )


def test_a_thiefs_list_of_a_huge_version_does_not_outlive_the_keys_compromise(tmp_path):
    revocation_memory.accept(listed(2**53 - 1), believing(OLD, NEW), tmp_path, BASE)
    knowing = believing(OLD, NEW, compromised=(OLD,))
    assert revocation_memory.accept(listed(9, NEW), knowing, tmp_path, BASE).version == 9


def test_entries_by_address_from_before_still_count(tmp_path):
    path = tmp_path / MEMORY_NAME
    path.write_text(json.dumps({BASE: {"version": 7, "content_sha256": "0" * 64}}))
    path.chmod(0o600)
    older = (revocation_memory.accept, listed(6), believing(OLD), tmp_path, BASE)
    assert refusal(*older) == "revocations_rolled_back"


DAMAGED = (
    "",
    "[]",
    "{",
    "[" * 100_000,
    '{"a":1}',
    '{"a":{"version":1}}',
    '{"a":{"content_sha256":"' + "0" * 64 + '","version":1e400}}',
    '{"a":{"content_sha256":"' + "0" * 64 + '","version":true}}',
    '{"a":{"content_sha256":"' + "0" * 64 + '","version":-1}}',
    '{"a":{"content_sha256":"' + "0" * 64 + '","version":1,"version":2}}',
    '{"a":{"content_sha256":7,"version":1}}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_memory_is_told_and_nothing_is_accepted(tmp_path, text):
    path = tmp_path / MEMORY_NAME
    path.write_text(text)
    path.chmod(0o600)
    assert refusal(revocation_memory.accept, listed(7), believing(OLD), tmp_path, BASE) == "memory_damaged"
    assert path.read_text() == text


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_memory_that_others_can_write_is_not_believed(tmp_path, mode):
    revocation_memory.accept(listed(7), believing(OLD), tmp_path, BASE)
    (tmp_path / MEMORY_NAME).chmod(mode)
    assert refusal(revocation_memory.accept, listed(8), believing(OLD), tmp_path, BASE) == "memory_exposed"


def test_commands_at_once_never_lower_the_memory(tmp_path):
    def accept(version):
        with contextlib.suppress(ClientError):  # an older one that came later
            revocation_memory.accept(listed(version), believing(OLD), tmp_path, BASE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(accept, range(1, 41)))
    assert (
        refusal(revocation_memory.accept, listed(39), believing(OLD), tmp_path, "")
        == "revocations_rolled_back"
    )


# -- pins ----------------------------------------------------------------------------------------------


class Shows:
    """A marketplace that shows a key list."""

    def __init__(self, current):
        self.current = current

    def key_list(self):
        envelope = json.loads(key_lists.sign(self.current, ROOT))
        return {"envelope": envelope, "root_public_key": b64encode(ROOT.public_key).decode()}

    def platform_keys(self):
        raise AssertionError("a root was shown")


def chain(length):
    key = register(OLD.public_key, ISSUED_AT)
    one = key_lists.reissue(key_lists.activate(key_lists.add(EMPTY, key), key.key_id), ISSUED_AT)
    lists = [one]
    while len(lists) < length:
        lists.append(key_lists.reissue(lists[-1], ISSUED_AT))
    return lists


def test_pins_are_not_lowered_by_a_command_that_saw_an_older_list(tmp_path):
    lists = chain(3)

    class Late(Shows):
        """While it answers, another command pins a newer list."""

        def key_list(self):
            trust.pinned(tmp_path, BASE, Shows(lists[2]), ISSUED_AT)
            return super().key_list()

    trust.pinned(tmp_path, BASE, Shows(lists[0]), ISSUED_AT)
    assert refusal(trust.pinned, tmp_path, BASE, Late(lists[1]), ISSUED_AT) == "key_list_rollback"
    assert trust.pinned(tmp_path, BASE, None, ISSUED_AT).listed.version == 3


@pytest.mark.parametrize(
    "text",
    [
        *DAMAGED[:5],
        '{"http://market.test":{}}',
        '{"http://market.test":{"pinned_at":"x","keys":{}}}',
        '{"http://market.test":{"pinned_at":"x","root":"AAAA"}}',
        '{"http://market.test":{"root":"AAAA","key_list":"{}"}}',
        '{"http://market.test":{"pinned_at":"x","root":1,"key_list":"{}"}}',
    ],
)
def test_damaged_pins_are_told_and_pin_nothing_anew(tmp_path, text):
    path = tmp_path / PINS_NAME
    path.write_text(text)
    path.chmod(0o600)
    for shows in (None, Shows(chain(1)[0])):
        assert refusal(trust.pinned, tmp_path, BASE, shows, ISSUED_AT) == "pins_damaged"
    assert path.read_text() == text


def test_pins_that_others_can_write_are_not_believed(tmp_path):
    trust.pinned(tmp_path, BASE, Shows(chain(1)[0]), ISSUED_AT)
    path = tmp_path / PINS_NAME
    path.chmod(0o666)
    assert refusal(trust.pinned, tmp_path, BASE, None, ISSUED_AT) == "memory_exposed"
    path.chmod(0o600)
    link = tmp_path / "elsewhere.json"
    path.rename(link)
    path.symlink_to(link)
    assert trust.pinned(tmp_path, BASE, None, ISSUED_AT).listed.version == 1
    link.chmod(0o622)
    assert refusal(trust.pinned, tmp_path, BASE, None, ISSUED_AT) == "memory_exposed"


def test_a_key_file_of_too_many_keys_is_refused_and_not_cut(tmp_path):
    path = tmp_path / "platform.pem"
    signers = (DevelopmentKeyFile(bytes([n]) * 32, b"w" * 32) for n in range(1, trust.KEYS_MAX + 2))
    path.write_text("".join(public_key_pem(one.public_key) for one in signers))
    assert refusal(trust.from_file, path) == "trust_key_invalid"
