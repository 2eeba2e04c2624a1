"""Licences and sealed deliveries of booked orders, opened and checked by other means."""

import hashlib
import io
import json
import secrets
from dataclasses import replace
from datetime import timedelta

import pyrage
import pytest

from actors.publisher.sealing import ReleaseSealer
from actors.signer.issuer import Issuer, IssueRequest
from domain import delivery_manifests, licences
from domain.dsse import Envelope, signing_key
from domain.errors import RejectedError
from domain.fulfilment import ReleaseMaterial, file_key_context
from domain.licence_verification import check
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.decide import RELEASED_KEY_TTL_S, decide
from domain.orders.lines import DeliveryChoice
from domain.orders.state import evolve
from storage.age.payload import encrypt_payload
from storage.age.recipients import public_half, recipient_text
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.carts import NOW, cart, line, order_id
from tests.fakes.documents import licence

BUNDLE = b"#!/usr/bin/env python3\nprint('hello')\n" * 5000


@pytest.fixture
def keys():
    return DevelopmentKeyFile(secrets.token_bytes(32), secrets.token_bytes(32))


@pytest.fixture
def release(keys):
    file_key = secrets.token_bytes(16)
    payload = io.BytesIO()
    encrypt_payload(file_key, io.BytesIO(BUNDLE), payload, nonce=secrets.token_bytes(16))
    material = ReleaseMaterial(
        "rel_1",
        "logline-1.0.0.tar.gz",
        hashlib.sha256(BUNDLE).hexdigest(),
        len(BUNDLE),
        hashlib.sha256(payload.getvalue()).hexdigest(),
        len(payload.getvalue()),
        keys.wrap(file_key, file_key_context("rel_1")),
    )
    return material, payload.getvalue()


def booked_order(delivery, number=1, lines=None):
    lines = lines or (line(),)
    oid, state = order_id(number), None
    total = sum(one.amount_minor for one in lines)
    for command in [
        cart(number, *lines, delivery=delivery),
        c.RecordPaymentOpened("pi_1", None, NOW),
        c.ConfirmPayment("pi_1", "evt_1", total, "USD", NOW),
        c.RecordBooking(capture_entry_key(oid), "ent_1", "USD", total, NOW),
    ]:
        for event in decide(state, command):
            state = evolve(oid, state, event)
    return state


def test_a_buyer_opens_the_delivery_with_an_independent_reader(keys, release):
    material, payload = release
    identity = pyrage.x25519.Identity.generate()
    order = booked_order(DeliveryChoice("recipient", str(identity.to_public())))
    (fulfilment,) = Issuer(keys, keys).issue([IssueRequest(order, (material,))])
    (delivery,) = fulfilment.deliveries
    assert pyrage.decrypt(delivery.header + payload, [identity]) == BUNDLE
    assert (delivery.wrapped_identity, delivery.key_ttl_s) == (None, None)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(minutes=20), timedelta(minutes=20, microseconds=7)])
def test_what_waited_for_a_new_key_is_valid_under_it(keys, release, late):
    """Nobody signed for a while (an outage, a compromise); the key that does is younger than the payment."""
    material, _ = release
    key = register(keys.public_key, NOW + late)
    order = booked_order(DeliveryChoice("released_key", None))
    issuer = Issuer(keys, keys, not_before=key.not_before)
    (fulfilment,) = issuer.issue([IssueRequest(order, (material,))])
    (again,) = issuer.issue([IssueRequest(order, (material,))])
    (row,) = fulfilment.licences
    assert row.envelope == again.licences[0].envelope
    one, report = check(row.envelope, {key.key_id: key}, verify, revocations=None, now=NOW + late)
    assert report.key_state.state == "active"
    assert one.issued_at == row.issued_at >= key.not_before
    assert one.issued_at - order.booked_at < late + timedelta(seconds=1)


def test_a_document_after_the_issue_is_not_dated_before_its_key(keys):
    key = register(keys.public_key, NOW + timedelta(minutes=3))  # the offline machine's clock is fast
    text = ReleaseSealer(keys, keys, key.not_before).sign_licensing(licence(issued_at=NOW))
    _, report = check(text, {key.key_id: key}, verify, revocations=None, now=NOW)
    assert (report.key_state.state, report.expiry.state) == ("active", "perpetual")


def test_a_released_key_opens_its_own_delivery_only(keys, release):
    material, payload = release
    issuer = Issuer(keys, keys)
    orders = [booked_order(DeliveryChoice("released_key", None), number) for number in (1, 2)]
    first, second = issuer.issue([IssueRequest(order, (material,)) for order in orders])
    delivery, other = first.deliveries[0], second.deliveries[0]
    assert delivery.key_ttl_s == RELEASED_KEY_TTL_S
    text = issuer.unwrap_identity(delivery.delivery_id, delivery.wrapped_identity)
    identity = pyrage.x25519.Identity.from_str(text)
    assert pyrage.decrypt(delivery.header + payload, [identity]) == BUNDLE
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(other.header + payload, [identity])
    with pytest.raises(RejectedError, match="unwrap_refused"):
        issuer.unwrap_identity(other.delivery_id, delivery.wrapped_identity)


def test_licence_and_manifest_verify_and_say_what_was_bought(keys, release):
    material, _ = release
    recipient = recipient_text(public_half(secrets.token_bytes(32)))
    order = booked_order(DeliveryChoice("recipient", recipient))
    (fulfilment,) = Issuer(keys, keys).issue([IssueRequest(order, (material,))])
    envelope, licence = licences.open_envelope(fulfilment.licences[0].envelope)
    assert signing_key(envelope, {keys.key_id: keys.public_key}, verify) == keys.key_id
    assert (licence.order_id, licence.buyer_id, licence.quantity) == (order.order_id, order.buyer_id, 1)
    manifest_envelope = Envelope.parse(fulfilment.deliveries[0].manifest)
    assert signing_key(manifest_envelope, {keys.key_id: keys.public_key}, verify) == keys.key_id
    manifest = delivery_manifests.parse(manifest_envelope.payload)
    assert manifest.header == fulfilment.deliveries[0].header
    assert manifest.plaintext.sha256 == material.bundle_sha256
    assert manifest.licence_id == fulfilment.licences[0].licence_id


def test_a_timed_licence_expires_from_its_booking(keys, release):
    material, _ = release
    recipient = recipient_text(public_half(secrets.token_bytes(32)))
    timed = line()
    timed = type(timed)(**{name: getattr(timed, name) for name in timed.__slots__} | {"licence_days": 30})
    order = booked_order(DeliveryChoice("recipient", recipient), lines=(timed,))
    (fulfilment,) = Issuer(keys, keys).issue([IssueRequest(order, (material,))])
    _, licence = licences.open_envelope(fulfilment.licences[0].envelope)
    assert (licence.policy.expires_at - licence.issued_at).days == 30


@pytest.mark.parametrize("activation", ["seats", "floating"])
def test_a_release_says_how_its_licences_are_activated(keys, release, activation):
    material, _ = release
    order = booked_order(DeliveryChoice("released_key", None))
    request = IssueRequest(order, (replace(material, licence_activation=activation),))
    (fulfilment,) = Issuer(keys, keys).issue([request])
    assert licences.open_envelope(fulfilment.licences[0].envelope)[1].policy.kind == activation


def test_repeating_gives_the_same_licence_bytes(keys, release):
    material, _ = release
    order = booked_order(DeliveryChoice("released_key", None))
    issuer = Issuer(keys, keys)
    (one,), (two,) = [issuer.issue([IssueRequest(order, (material,))]) for _ in range(2)]
    assert one.licences == two.licences


def test_one_bad_order_does_not_spoil_its_neighbours(keys, release):
    material, _ = release
    good = booked_order(DeliveryChoice("released_key", None))
    bad = booked_order(DeliveryChoice("recipient", "age1notakey"), 2)
    answers = Issuer(keys, keys).issue([IssueRequest(bad, (material,)), IssueRequest(good, (material,))])
    assert isinstance(answers[0], RejectedError)
    assert len(answers[1].licences) == 1


def test_a_file_key_wrapped_for_another_release_is_refused(keys, release):
    material, _ = release
    moved = ReleaseMaterial("rel_2", *(getattr(material, name) for name in list(material.__slots__)[1:]))
    order = booked_order(DeliveryChoice("released_key", None))
    (answer,) = Issuer(keys, keys).issue([IssueRequest(order, (moved,))])
    assert isinstance(answer, RejectedError)
    assert answer.code == "unwrap_refused"


def test_no_secret_shows_in_what_is_committed(keys, release):
    material, _ = release
    order = booked_order(DeliveryChoice("released_key", None))
    issuer = Issuer(keys, keys)
    (fulfilment,) = issuer.issue([IssueRequest(order, (material,))])
    delivery = fulfilment.deliveries[0]
    secret = issuer.unwrap_identity(delivery.delivery_id, delivery.wrapped_identity)
    assert secret not in json.dumps([delivery.manifest, repr(delivery), repr(material)])
