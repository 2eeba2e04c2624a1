"""Any one byte that differs in a document that the platform signed is refused; each is under 4 KiB."""

import base64
from collections.abc import Callable
from datetime import timedelta

import pytest

from actors.publisher.sealing import ReleaseSealer, SealRequest
from cluster.client import ClientError
from cluster.trust import TrustedKeys
from cluster.verification import check_licence, open_delivery_manifest
from domain import delivery_manifests, licences, manifests, revocations
from domain.dsse import sign_all
from domain.errors import RejectedError
from domain.platform_documents import open_signed
from domain.revocations import RevocationList
from domain.statements import PAYLOAD_TYPE
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, delivery_manifest, licence, release_manifest

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
RECORD = register(SIGNER.public_key, ISSUED_AT)
TRUSTED = TrustedKeys({SIGNER.key_id: RECORD}, "for tests")
PUBLIC = {SIGNER.key_id: SIGNER.public_key}


def signed(payload_type: str, payload: bytes) -> str:
    (envelope,) = sign_all(SIGNER, payload_type, [payload])
    return envelope.dumps()


def read_licence(text: str) -> bool:
    found, _ = check_licence(text, TRUSTED, ISSUED_AT)
    return found is not None


def read_delivery(text: str) -> bool:
    try:
        open_delivery_manifest(text, TRUSTED)
    except ClientError:
        return False
    return True


def reading(payload_type: str) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        try:
            open_signed(text, payload_type, "a document", PUBLIC, verify)
        except RejectedError:
            return False
        return True

    return read


LICENCE = signed(licences.PAYLOAD_TYPE, licences.build(licence()))
REVOCATIONS = ReleaseSealer(SIGNER, SIGNER).sign_revocations(
    RevocationList(2, ISSUED_AT, ISSUED_AT + timedelta(days=1), 0, ["lic_a"])
)
DOCUMENTS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "licence": (licences.armour(LICENCE), read_licence),
    "delivery manifest": (
        signed(PAYLOAD_TYPE, delivery_manifests.build(delivery_manifest())),
        read_delivery,
    ),
    "countersignature of a release": (
        ReleaseSealer(SIGNER, SIGNER)
        .seal_release(SealRequest("rel_1", manifests.build(release_manifest()), b"b" * 64, b"f" * 16))
        .countersignature,
        reading(PAYLOAD_TYPE),
    ),
    "revocation list": (REVOCATIONS, reading(revocations.PAYLOAD_TYPE)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flipped_byte_is_refused(name: str) -> None:
    text, read = DOCUMENTS[name]
    data = text.encode()
    assert len(data) < 4_096
    assert read(text)
    for position in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[position] ^= flip
            differing = bytes(changed).decode("latin-1")
            assert not read(differing), (position, flip, differing[max(0, position - 10) : position + 10])


def test_an_envelope_that_is_not_exact_is_refused() -> None:
    read = reading(licences.PAYLOAD_TYPE)
    assert read(LICENCE)
    url_safe = LICENCE.replace("+", "-").replace("/", "_") if "/vnd" not in LICENCE else LICENCE + " "
    for text in (
        url_safe,
        LICENCE.replace(":", ": ", 1),
        LICENCE.replace(SIGNER.key_id, "key_0000000000000000"),
        LICENCE.replace('"keyid":"' + SIGNER.key_id + '",', ""),
        signed(PAYLOAD_TYPE, base64.b64decode("e30=")),
    ):
        assert not read(text)
