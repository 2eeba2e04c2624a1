"""What every signing backend promises (``domain.signing.Keys``), run on each of them.

Subclasses provide ``keys``, an open backend, and may say that their service's stand-in does not authenticate
what it encrypts (``authenticates = False``): then only the real service refuses an altered blob.
"""

import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.signer.rehearsal import rehearse
from domain.dsse import pae
from domain.errors import DependencyError, MarketplaceError
from domain.signing import MESSAGE_BYTES_MAX, MESSAGES_MAX, key_id_of
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register, verify
from tests.fakes.carts import NOW

CONTEXT = {"release_id": "rel_1", "purpose": "release-file-key"}
OTHERS = ({**CONTEXT, "release_id": "rel_2"}, {"release_id": "rel_1"}, {**CONTEXT, "more": "x"})


def refused(code, action, *arguments):
    with pytest.raises(MarketplaceError) as error:
        action(*arguments)
    assert error.value.code == code, error.value


class SigningBackendContract:
    """See the module."""

    authenticates = True

    def test_its_key_is_sound_and_named_by_itself(self, keys):
        assert register(keys.public_key, NOW).key_id == keys.key_id == key_id_of(keys.public_key)
        assert keys.available

    def test_a_batch_is_signed_in_order_with_plain_ed25519(self, keys):
        messages = [bytes([number]) * number for number in range(40)]
        signatures = keys.sign_many(messages)
        assert len(signatures) == 40
        for message, signature in zip(messages, signatures, strict=True):
            assert verify(keys.public_key, message, signature)
        assert not verify(keys.public_key, messages[0], signatures[1])
        assert keys.sign_many([]) == []

    def test_repeating_gives_the_same_signature(self, keys):
        assert keys.sign_many([b"licence"]) == keys.sign_many([b"licence"])

    def test_openssl_agrees(self, keys, tmp_path):
        message = pae("application/vnd.in-toto+json", b"{}")
        tmp_path.joinpath("key.pem").write_text(public_key_pem(keys.public_key))
        tmp_path.joinpath("message").write_bytes(message)
        tmp_path.joinpath("sig").write_bytes(keys.sign_many([message])[0])
        command = "openssl pkeyutl -verify -rawin -pubin -inkey key.pem -sigfile sig -in message"
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_messages_are_bounded_and_the_longest_is_signed(self, keys):
        longest = secrets.token_bytes(MESSAGE_BYTES_MAX)
        (signature,) = keys.sign_many([longest])
        assert verify(keys.public_key, longest, signature)
        refused("message_too_large", keys.sign_many, [b"", longest + b"x"])
        refused("batch_too_large", keys.sign_many, [b""] * (MESSAGES_MAX + 1))

    def test_wrapped_secrets_open_under_their_context_only(self, keys):
        for size in (1, 16, 32, MESSAGE_BYTES_MAX):
            secret = secrets.token_bytes(size)
            wrapped = keys.wrap(secret, CONTEXT)
            assert secret not in wrapped or size == 1
            assert keys.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == secret
        for other in OTHERS:
            refused("unwrap_refused", keys.unwrap, wrapped, other)

    def test_wrapping_twice_gives_two_blobs(self, keys):
        assert keys.wrap(b"sixteen byte key", CONTEXT) != keys.wrap(b"sixteen byte key", CONTEXT)

    def test_altered_cut_and_foreign_blobs_are_refused(self, keys):
        wrapped = keys.wrap(b"sixteen byte key", CONTEXT)
        if self.authenticates:
            for position in range(len(wrapped)):
                changed = bytearray(wrapped)
                changed[position] ^= 1
                refused("unwrap_refused", keys.unwrap, bytes(changed), CONTEXT)
        foreign = DevelopmentKeyFile(b"o" * 32, b"o" * 32).wrap(b"sixteen byte key", CONTEXT)
        for blob in (b"", wrapped[:1], wrapped[:20], foreign):
            refused("unwrap_refused", keys.unwrap, blob, CONTEXT)

    def test_secrets_and_contexts_are_bounded(self, keys):
        for secret in (b"", bytes(MESSAGE_BYTES_MAX + 1)):
            refused("secret_too_large", keys.wrap, secret, CONTEXT)
        for context in (
            {},
            {str(number): "x" for number in range(9)},
            {"é": "x"},
            {"a": 1},
            {"a": "x" * 256},
        ):
            refused("context_invalid", keys.wrap, b"secret", context)
            refused("context_invalid", keys.unwrap, b"blob", context)

    def test_many_threads_get_their_own_answers(self, keys):
        def work(number):
            message, secret = b"message %d" % number, b"secret %d" % number
            (signature,) = keys.sign_many([message])
            return verify(keys.public_key, message, signature) and secret == keys.unwrap(
                keys.wrap(secret, CONTEXT), CONTEXT
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(40)))

    def test_it_proves_itself_for_its_own_key_and_no_other(self, keys):
        rehearse(keys, keys.public_key)
        with pytest.raises(DependencyError, match="signing_key_mismatch"):
            rehearse(keys, DevelopmentKeyFile(b"o" * 32, b"o" * 32).public_key)

    def test_it_shows_no_secret(self, keys):
        assert "pin" not in repr(keys)
        assert "token=s" not in repr(keys)
