"""Checkpoints: the log's head as a note that the platform signed (C2SP tlog-checkpoint, signed-note).

    origin          names the log
    4711            its size
    <base64>        its root

    — origin <base64 of four bytes that name the key, and the Ed25519 signature of the lines above>

The signature is over the text itself, so a checkpoint cannot pass for any other document: the others begin
with ``DSSEv1 ``, and an origin has no spaces. Refuses every other spelling of the same head, extension lines
included; signatures by keys that the reader does not know are passed over, as the specification says.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from domain.errors import RejectedError
from domain.merkle.tree import HASH_BYTES, SIZE_MAX, Head
from domain.signing import SIGNATURE_BYTES, Signer, Verifier

NOTE_CHARS_MAX = 4_096  # a head of 200 characters, and sixteen signatures of some 160
SIGNATURES_MAX = 16
KEY_HASH_BYTES = 4
_ED25519 = b"\x01"  # the signature type
_ORIGIN = re.compile(r"[!-*,-~]{1,128}", re.ASCII)  # visible, without "+"
_TEXT = re.compile(r"([!-*,-~]{1,128})\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n", re.ASCII)
_LINE = re.compile(r"— ([!-*,-~]{1,128}) ([A-Za-z0-9+/]+={0,2})", re.ASCII)


class CheckpointError(RejectedError):
    """A note that is not believed: ``checkpoint_invalid`` or ``checkpoint_untrusted``."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head of the log that is named ``origin``."""

    origin: str
    head: Head

    @property
    def text(self) -> str:
        """The text that is signed, with its last line feed.

        Raises:
            CheckpointError: ``checkpoint_invalid``; such a head is never signed.
        """
        root = base64.b64encode(self.head.root).decode()
        text = f"{self.origin}\n{self.head.size}\n{root}\n"
        if _read(text) != self:
            raise CheckpointError("checkpoint_invalid", "This is no head of a log.")
        return text


def is_origin(text: str) -> bool:
    """Whether a text can name a log: visible ASCII without spaces or ``+``."""
    return _ORIGIN.fullmatch(text) is not None


def key_hash(name: str, public_key: bytes) -> bytes:
    """Return the four bytes by which a note's signature names its key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:KEY_HASH_BYTES]


def verifier_key(name: str, public_key: bytes) -> str:
    """Return a key as other tools for notes take it: ``name+hash+key``."""
    key = base64.b64encode(_ED25519 + public_key).decode()
    return f"{name}+{key_hash(name, public_key).hex()}+{key}"


def sign(checkpoint: Checkpoint, signer: Signer) -> str:
    """Return the signed note.

    Raises:
        CheckpointError: ``checkpoint_invalid``; or whatever the signer raises.
    """
    text = checkpoint.text
    (signature,) = signer.sign_many([text.encode()])
    named = key_hash(checkpoint.origin, signer.public_key) + signature
    return f"{text}\n— {checkpoint.origin} {base64.b64encode(named).decode()}\n"


def read(note: str) -> Checkpoint:
    """Read a note's head. Says nothing about who signed it.

    Raises:
        CheckpointError: ``checkpoint_invalid``.
    """
    return _parts(note)[0]


def open_note(note: str, trusted: Iterable[bytes], verify: Verifier) -> tuple[Checkpoint, bytes]:
    """Verify a note and return its head, with the public key of the log that has signed it.

    ``trusted`` are the platform's public keys. A signature that claims to be by one of them and is not spoils
    the note.

    Raises:
        CheckpointError: ``checkpoint_invalid`` or ``checkpoint_untrusted``.
    """
    checkpoint, signatures = _parts(note)
    known: Mapping[bytes, bytes] = {key_hash(checkpoint.origin, key): key for key in trusted}
    signed_by = None
    for name, raw in signatures:
        public_key = known.get(raw[:KEY_HASH_BYTES])
        if name != checkpoint.origin or public_key is None:
            continue
        signature = raw[KEY_HASH_BYTES:]
        if len(signature) != SIGNATURE_BYTES or not verify(public_key, checkpoint.text.encode(), signature):
            raise CheckpointError("checkpoint_untrusted", "A signature of this checkpoint is not valid.")
        signed_by = public_key
    if signed_by is None:
        raise CheckpointError("checkpoint_untrusted", "No trusted key has signed this checkpoint.")
    return checkpoint, signed_by


def _parts(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    text, blank, lines = note.rpartition("\n\n")
    checkpoint = _read(text + "\n") if blank and len(note) <= NOTE_CHARS_MAX else None
    if checkpoint is None or not lines.endswith("\n"):
        raise CheckpointError("checkpoint_invalid", "This is no checkpoint of a log.")
    found: list[tuple[str, bytes]] = []
    for line in lines[:-1].split("\n"):
        match = _LINE.fullmatch(line)
        raw = b"" if match is None else _decoded(match[2])
        if match is None or len(raw) <= KEY_HASH_BYTES or len(found) == SIGNATURES_MAX:
            raise CheckpointError("checkpoint_invalid", "A signature of this checkpoint cannot be read.")
        found.append((match[1], raw))
    return checkpoint, found


def _read(text: str) -> Checkpoint | None:
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    root, size = _decoded(match[3]), int(match[2])
    return Checkpoint(match[1], Head(size, root)) if len(root) == HASH_BYTES and size <= SIZE_MAX else None


def _decoded(text: str) -> bytes:
    """Decode base64 in its one canonical spelling; nothing for any other."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""
