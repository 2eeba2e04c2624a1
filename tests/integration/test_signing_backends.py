"""One contract for all signing backends, each against a real key service on this machine."""

import contextlib
import socket
import time
from pathlib import Path

import httpx
import pytest
from key_services import (
    PIN,
    VAULT_TOKEN,
    made_key_file,
    made_softhsm,
    proxy_address,
    running_kms,
    running_proxy,
    running_vault,
    trusting,
)

from cluster.signing_proxy import CONNECTIONS_MAX
from domain.errors import DependencyError, MarketplaceError
from storage.signing import guarded
from storage.signing.backends import open_backend
from storage.signing.keys import verify
from tests.contracts.signing import CONTEXT, SigningBackendContract

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp


@pytest.fixture(scope="module")
def vault(folder):
    with running_vault(folder("vault")) as service:
        yield service


@pytest.fixture(scope="module")
def kms(folder):
    with running_kms(folder("kms")) as service:
        yield service


@pytest.fixture(scope="module")
def softhsm(folder):
    return made_softhsm(folder("softhsm"))


@pytest.fixture(scope="module")
def key_file(folder):
    return made_key_file(folder("file"))


@pytest.fixture(scope="module")
def proxy(folder, key_file):
    with running_proxy(folder("proxy"), key_file.address) as service:
        yield service


def opened(service):
    keys = open_backend(service.address)
    yield keys
    keys.close()


class TestDevelopmentFile(SigningBackendContract):
    @pytest.fixture
    def keys(self, key_file):
        yield from opened(key_file)


class TestVaultTransit(SigningBackendContract):
    @pytest.fixture
    def keys(self, vault):
        yield from opened(vault)


class TestAwsKms(SigningBackendContract):
    authenticates = False  # the local KMS encrypts by XOR; AWS's is AES-GCM

    @pytest.fixture
    def keys(self, kms):
        yield from opened(kms)


class TestSoftHsm(SigningBackendContract):
    @pytest.fixture
    def keys(self, softhsm):
        yield from opened(softhsm)


class TestProxy(SigningBackendContract):
    @pytest.fixture
    def keys(self, proxy):
        yield from opened(proxy)


def refuses(code, work):
    with pytest.raises(MarketplaceError) as told:
        work()
    assert told.value.code == code, told.value
    return told.value.detail


def test_a_pinned_version_goes_on_when_vault_rotates(vault):
    before = open_backend(vault.address)
    api = vault.address.removeprefix("vault:").partition("/transit")[0]
    answer = httpx.post(
        f"{api}/v1/transit/keys/signing/rotate", headers={"X-Vault-Token": VAULT_TOKEN}, timeout=5
    )
    assert answer.is_success
    (signature,) = before.sign_many([b"message"])
    assert verify(before.public_key, b"message", signature)
    pinned, newest = open_backend(f"{vault.address}&version=1"), open_backend(vault.address)
    assert pinned.public_key == before.public_key != newest.public_key
    (signature,) = newest.sign_many([b"message"])
    assert verify(newest.public_key, b"message", signature)
    for keys in (before, pinned, newest):
        keys.close()


def test_a_token_that_was_renewed_is_read_again(vault, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("stale")
    path = vault.address.partition("token_file=")[0] + f"token_file={token_file}"
    assert "403" in refuses("signer_refused", lambda: open_backend(path))
    token_file.write_text(VAULT_TOKEN)
    keys = open_backend(path)
    keys._service._token = "expired-meanwhile"
    assert len(keys.sign_many([b"message"])) == 1
    keys.close()


@pytest.mark.parametrize("missing", ["signing", "wrapping"])
def test_a_key_that_vault_lacks_is_for_its_operators(vault, missing):
    address = vault.address.replace(missing, "missing")

    def work():
        open_backend(address).wrap(b"secret", CONTEXT)

    refuses("signer_refused", work)


def test_a_key_of_another_kind_is_refused(vault, kms):
    swapped = vault.address.replace("/signing?wrap=wrapping", "/wrapping?wrap=wrapping")
    assert "ed25519" in refuses("signer_refused", lambda: open_backend(swapped))
    wrapping = kms.address.partition("wrap=")[2].partition("&")[0]
    query = kms.address.partition("?")[2]
    refuses("signer_refused", lambda: open_backend(f"aws-kms:{wrapping}?{query}"))


def test_a_wrong_pin_is_for_the_operators_and_never_shown(softhsm, tmp_path):
    wrong = tmp_path / "pin"
    wrong.write_text("0000")
    address = softhsm.address.replace(str(softhsm.folder / "pin"), str(wrong))
    detail = refuses("signer_refused", lambda: open_backend(address))
    assert PIN not in detail
    assert "0000" not in detail


def test_a_token_that_lost_its_session_is_logged_in_anew(softhsm):
    keys = open_backend(softhsm.address)
    keys._service._open.session.close()
    assert len(keys.sign_many([b"message"])) == 1
    keys.close()


def test_only_the_signers_certificate_may_sign(proxy, tmp_path):
    port = int(proxy.address.partition("?")[0].rpartition(":")[2])
    stranger = proxy_address(proxy.folder, port, "stranger")
    assert "caller_not_allowed" in refuses("signer_refused", lambda: open_backend(stranger))
    url = f"https://127.0.0.1:{port}"
    with httpx.Client(base_url=url, verify=trusting(proxy.folder, "stranger")) as unlisted:
        assert unlisted.post("/v1/sign", json={"messages": []}).status_code == 403
        assert unlisted.get("/v1/key").status_code == 403
    for path in ("/livez", "/v1/key"):  # without a certificate not even a connection
        with pytest.raises(httpx.TransportError):
            httpx.get(url + path, verify=trusting(proxy.folder))
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http") + "/livez")
    keys = open_backend(proxy.address)
    keys.sign_many([b"message"] * 3)
    keys.close()
    log = Path(proxy.folder / "proxy.log").read_text()
    assert "/v1/sign of 3 by spiffe://marketplace/signer: ok" in log, "who had how many messages signed"


def test_strangers_connections_do_not_keep_the_signer_out(proxy):
    """More of them than the proxy serves at once, held open."""
    port = int(proxy.address.partition("?")[0].rpartition(":")[2])
    context = trusting(proxy.folder)
    held = []
    try:
        for _ in range(CONNECTIONS_MAX + 8):
            plain = socket.create_connection(("127.0.0.1", port), timeout=5)
            held.append(plain)
            with contextlib.suppress(OSError):  # the refusal comes with the first read, or before
                held.append(context.wrap_socket(plain, server_hostname="127.0.0.1"))
        keys = open_backend(proxy.address)
        assert len(keys.sign_many([b"message"])) == 1
        keys.close()
    finally:
        for one in held:
            one.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages":1}',
        b'{"messages":["*"]}',
        b'{"messages":[],"messages":[]}',
        b"x" * 3_000_000,
    ],
)
def test_malformed_requests_to_the_proxy_are_refused(proxy, body):
    keys = open_backend(proxy.address)
    answer = keys._service._http.post("/v1/sign", content=body)
    assert answer.status_code == 422, answer.text
    keys.close()


@pytest.mark.parametrize("which", ["vault", "kms", "proxy"])
def test_an_outage_is_told_in_time_leaves_the_service_alone_and_ends_by_itself(which, request):
    service = request.getfixturevalue(which)
    keys = open_backend(service.address)
    service.pause()
    try:
        started = time.monotonic()
        for _ in range(guarded.FAILURES_MAX):
            refuses("signer_unavailable", lambda: keys.sign_many([b"message"]))
        assert not keys.available
        took_s = time.monotonic() - started
        assert took_s < guarded.FAILURES_MAX * (guarded.DEADLINE_S + 1), "each call ends within its deadline"
        started = time.monotonic()
        refuses("signer_unavailable", lambda: keys.sign_many([b"message"]))
        assert time.monotonic() - started < 0.1, "it is left alone"
    finally:
        service.resume()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            (signature,) = keys.sign_many([b"message"])
        except DependencyError:
            time.sleep(0.2)
        else:
            break
    assert verify(keys.public_key, b"message", signature)
    assert keys.available
    keys.close()
