"""What stands between us and a key service: deadline, retries, quota, circuit, verification."""

import threading

import pytest

from domain.errors import BusyError, DependencyError, MarketplaceError, RejectedError
from storage.signing import guarded
from storage.signing.backends import open_backend, parse_address
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.guarded import Circuit, GuardedKeys, Quota, TokenBucket
from storage.signing.keys import verify
from tests.fakes.orders import FakeMonotonic

KEYS = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
OTHER = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
CONTEXT = {"release_id": "rel_1"}
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group, L of RFC 8032


class Clock(FakeMonotonic):
    def sleep(self, seconds):
        self.now_s += seconds


class Service:
    """A key service whose calls fail as ``failures`` says, then work; ``took_s`` passes at each."""

    name, batch_max, wrap_tag = "test:service", 10, b"\x01"

    def __init__(self, clock):
        self.clock = clock
        self.failures = []
        self.took_s = 0.0
        self.calls = []
        self.closed = False
        self.signs = KEYS

    def _call(self, what):
        self.calls.append(what)
        self.clock.now_s += self.took_s
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure

    def public_key(self, timeout_s):
        self._call("public_key")
        return KEYS.public_key

    def sign(self, messages, timeout_s):
        assert 0 < timeout_s <= guarded.TRY_TIMEOUT_S
        self._call(len(messages))
        return self.signs.sign_many(messages)

    def wrap(self, plaintext, context, timeout_s):
        self._call("wrap")
        return KEYS.wrap(plaintext, context)

    def unwrap(self, wrapped, context, timeout_s):
        self._call("unwrap")
        return KEYS.unwrap(wrapped, context)

    def close(self):
        self.closed = True


def away():
    return guarded.unavailable("test", "no answer")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def service(clock):
    return Service(clock)


@pytest.fixture
def observed():
    return []


@pytest.fixture
def keys(service, clock, observed):
    made = GuardedKeys(
        service, None, lambda *seen: observed.append(seen[1::2]), monotonic=clock, sleep=clock.sleep
    )
    service.calls.clear()
    observed.clear()
    return made


def test_large_batches_are_cut_and_answers_stay_in_order(keys, service):
    messages = [b"%d" % number for number in range(25)]
    signatures = keys.sign_many(messages)
    assert service.calls == [10, 10, 5]
    assert all(verify(KEYS.public_key, *pair) for pair in zip(messages, signatures, strict=True))


def test_a_passing_failure_is_tried_again(keys, service, observed):
    service.failures = [away(), away()]
    assert len(keys.sign_many([b"message"])) == 1
    assert service.calls == [1, 1, 1]
    assert observed == [("sign", "ok")]


def test_what_operators_must_mend_is_not_tried_again(keys, service, observed):
    service.failures = [guarded.refused("test", "AccessDenied")]
    with pytest.raises(DependencyError, match="signer_refused"):
        keys.sign_many([b"message"])
    assert service.calls == [1]
    assert observed == [("sign", "signer_refused")]


def test_tries_end_within_the_deadline(keys, service, clock):
    service.failures = [away()] * 9
    service.took_s = guarded.TRY_TIMEOUT_S
    started_s = clock.now_s
    with pytest.raises(DependencyError, match="signer_unavailable"):
        keys.sign_many([b"message"])
    assert clock.now_s - started_s <= guarded.DEADLINE_S
    assert len(service.calls) == 2


def test_a_service_that_is_away_is_left_alone_and_asked_by_one_call_at_a_time(keys, service, clock):
    service.failures = [away()] * (guarded.TRIES_MAX * guarded.FAILURES_MAX)
    for _ in range(guarded.FAILURES_MAX):
        with pytest.raises(DependencyError):
            keys.sign_many([b"message"])
    assert not keys.available
    service.calls.clear()
    with pytest.raises(DependencyError, match="orders wait"):
        keys.unwrap(b"\x01 blob", CONTEXT)
    assert service.calls == []
    clock.now_s += guarded.OPEN_S
    assert len(keys.sign_many([b"message"])) == 1
    assert keys.available


def test_a_failed_probe_opens_the_circuit_anew(clock):
    circuit = Circuit("test", clock)
    for _ in range(guarded.FAILURES_MAX):
        circuit.admit()
        circuit.settle(failed=True)
    clock.now_s += guarded.OPEN_S
    circuit.admit()
    with pytest.raises(DependencyError):
        circuit.admit()
    circuit.settle(failed=True)
    with pytest.raises(DependencyError):
        circuit.admit()
    clock.now_s += guarded.OPEN_S
    circuit.admit()
    circuit.settle(failed=False)
    assert circuit.closed


def test_another_backends_blob_says_nothing_of_this_service(keys, service):
    service.failures = [away()] * (guarded.TRIES_MAX * guarded.FAILURES_MAX)
    for _ in range(guarded.FAILURES_MAX):
        with pytest.raises(DependencyError):
            keys.sign_many([b"message"])
        with pytest.raises(RejectedError, match="unwrap_refused"):
            keys.unwrap(b"\x02 of another", CONTEXT)
    assert not keys.available


def test_refusals_are_answers_and_open_no_circuit(keys, service):
    for _ in range(10):
        with pytest.raises(RejectedError, match="unwrap_refused"):
            keys.unwrap(b"\x01 nonsense", CONTEXT)
    assert keys.available
    assert len(service.calls) == 10


def test_a_wrong_signature_never_leaves(keys, service):
    service.signs = OTHER
    with pytest.raises(DependencyError, match="signature_wrong"):
        keys.sign_many([b"one", b"two"])


def test_a_service_that_signs_wrongly_is_counted_and_left_alone(keys, service, clock, observed):
    service.signs = OTHER
    for _ in range(guarded.FAILURES_MAX):
        with pytest.raises(DependencyError, match="signature_wrong"):
            keys.sign_many([b"one"])
    assert observed == [("sign", "signature_wrong")] * guarded.FAILURES_MAX
    assert not keys.available
    service.calls.clear()
    with pytest.raises(DependencyError, match="orders wait"):
        keys.sign_many([b"one"])
    assert service.calls == []
    clock.now_s += guarded.OPEN_S
    service.signs = KEYS
    assert len(keys.sign_many([b"one"])) == 1
    assert keys.available


@pytest.mark.parametrize(
    "wrong",
    [
        lambda signed: [one[:-1] for one in signed],
        lambda signed: [one + b"\0" for one in signed],
        lambda signed: [b""] * len(signed),
        lambda signed: signed[::-1],
        lambda signed: signed + signed[:1],
        lambda signed: [one[:32] + bytes(32) for one in signed],
        lambda signed: [  # s + L: the same signature in another form
            one[:32] + (int.from_bytes(one[32:], "little") + ORDER).to_bytes(32, "little") for one in signed
        ],
    ],
)
def test_short_long_reordered_and_malleable_signatures_never_leave(keys, service, wrong):
    service.sign = lambda messages, _timeout_s: wrong(KEYS.sign_many(messages))
    with pytest.raises(DependencyError, match="signature_wrong"):
        keys.sign_many([b"one", b"two"])


@pytest.mark.parametrize(
    "fault", [KeyError("data"), TypeError("x"), ValueError("x"), AttributeError("x"), OverflowError("x")]
)
def test_an_answer_that_cannot_be_read_is_an_outage(keys, service, fault):
    """No order is given up for it: what is unforeseen would be, after five tries."""
    service.failures = [fault] * guarded.TRIES_MAX
    with pytest.raises(DependencyError, match="signer_unavailable") as told:
        keys.sign_many([b"message"])
    assert type(fault).__name__ in told.value.detail
    assert len(service.calls) == guarded.TRIES_MAX
    assert len(keys.sign_many([b"message"])) == 1


def test_our_own_quota_says_nothing_of_the_service(service, clock):
    keys = GuardedKeys(service, Quota(0.001, 9), monotonic=clock, sleep=clock.sleep)
    service.failures = [guarded.refused("test", "AccessDenied")] * 2
    for _ in range(2):
        with pytest.raises(DependencyError):
            keys.sign_many([b"message"])
    keys._bucket._tokens = 0.0
    with pytest.raises(BusyError):
        keys.sign_many([b"message"])
    keys._bucket._tokens = 9.0
    service.failures = [guarded.refused("test", "AccessDenied")]
    with pytest.raises(DependencyError):
        keys.sign_many([b"message"])
    assert not keys.available, "three failures in a row, with a busy moment between them"


def test_a_missing_signature_never_leaves(keys, service):
    service.sign = lambda messages, _timeout_s: KEYS.sign_many(messages)[1:]
    with pytest.raises(DependencyError, match="signature_wrong"):
        keys.sign_many([b"one", b"two"])


def test_a_quota_is_kept_by_waiting_and_then_by_saying_so(clock):
    bucket = TokenBucket(Quota(10.0, 2), clock, clock.sleep)
    started_s = clock.now_s
    for _ in range(12):
        bucket.take(started_s + 1.01)
    assert clock.now_s - started_s == pytest.approx(1.0)
    with pytest.raises(BusyError, match="signer_busy"):
        bucket.take(clock.now_s + 0.05)
    bucket.take(clock.now_s + 1.0)


def test_a_service_that_does_not_open_is_let_go(service, clock):
    service.failures = [away()] * 9
    with pytest.raises(DependencyError):
        GuardedKeys(service, None, monotonic=clock, sleep=clock.sleep)
    assert service.closed


def test_single_message_services_are_called_at_once(clock):
    service = Service(clock)
    service.batch_max = 1
    together = threading.Barrier(4, timeout=10)
    sign = service.sign

    def meeting(messages, timeout_s):
        together.wait()
        return sign(messages, timeout_s)

    service.sign = meeting
    keys = GuardedKeys(service, None, monotonic=clock, sleep=clock.sleep)
    assert len(keys.sign_many([b"1", b"2", b"3", b"4"])) == 4
    keys.close()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "file",
        "file:",
        "https://example.com",
        "file:/x?mode=1",
        "aws-kms:key",
        "aws-kms:key?wrap",
        "aws-kms:key?wrap=a&wrap=b",
        "aws-kms:key?wrap=a&secret=b",
        "vault:ftp://h/m/k?wrap=w&token_file=t",
        "vault:https://h/k?wrap=w&token_file=t",
        "vault:https://h/m/k?wrap=w",
        "vault:https://h/m/k?wrap=w&token_file=t&version=x",
        "pkcs11:token=t?module-path=m&pin-source=file:p&x-wrap=w",
        "pkcs11:token=t;object=o?module-path=m&pin-source=p&x-wrap=w",
        "vault:http://h/m/k?wrap=w&token_file=t",
        "vault:http://127.0.0.1.h/m/k?wrap=w&token_file=t",
        "aws-kms:key?wrap=w&region=r&endpoint=http://h:1",
        "aws-kms:key?wrap=w&region=r&endpoint=h",
        "vault:https://me:secret@h/m/k?wrap=w&token_file=t",
        "aws-kms:key?wrap=w&region=r&endpoint=https://me@h",
        "proxy:https://me:secret@h?ca=a&cert=b&key=c",
        "proxy:http://h?ca=a&cert=b&key=c",
        "proxy:https://h?ca=a&cert=b",
        "aws-kms:key?wrap=w&region=r&per_s=0",
        "aws-kms:key?wrap=w&region=r&per_s=many",
    ],
)
def test_an_address_that_is_not_understood_is_refused(address):
    with pytest.raises(MarketplaceError) as told:
        open_backend(address)
    assert told.value.code == "signing_backend_invalid"
    assert "secret@" not in told.value.detail


def test_an_address_is_taken_apart():
    address = parse_address("pkcs11:token=a%20b;object=c?module-path=/m.so&pin-source=file:/p&x-wrap=w")
    assert (address.scheme, address.place) == ("pkcs11", "token=a%20b;object=c")
    assert address.required("pin-source") == "file:/p"
