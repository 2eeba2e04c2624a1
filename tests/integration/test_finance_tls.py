"""Mutual TLS with Finance, on loopback: who is let in, who is not, and what the marketplace is told."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from finance_process import FinanceProcess, entry, wait_until

from cluster.finance import read_settings
from cluster.local import certificates, layout
from cluster.local.certificates import Authority, KeyPair, KeyPairFiles
from domain.errors import DependencyError
from storage.finance import client_tls
from storage.finance.client_tls import ClientTls, ClientTlsFiles
from storage.finance_client import FinanceClient
from tests.fakes.carts import NOW

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
POSTINGS = [("stripe:clearing", 1999), ("seller:seller_1:payable", -1800), ("platform:fees", -199)]


@dataclass
class SecureFinance:
    """A Finance that knows its callers by certificate alone, and the folder of its certificates."""

    process: FinanceProcess
    set: certificates.LocalCertificates
    folder: Path

    @property
    def url(self) -> str:
        return self.process.url

    def client(self, pair: KeyPairFiles | None, ca: Path | None = None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(ca or self.set.ca))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return httpx.Client(base_url=self.url, verify=context, timeout=15)

    def pair(self, name: str, pair: KeyPair) -> KeyPairFiles:
        files = KeyPairFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificates.write_pair(pair, files)
        return files

    def books(self, pair: KeyPairFiles, ca: Path | None = None) -> FinanceClient:
        tls = ClientTls(ClientTlsFiles(ca or self.set.ca, pair.certificate, pair.key))
        return FinanceClient(self.url, "", tls=tls)


@pytest.fixture(scope="module")
def migrated(module_finance_database):
    return module_finance_database


@pytest.fixture
def finance(migrated, tmp_path) -> Iterator[SecureFinance]:
    made = certificates.ensure(tmp_path / "tls", [HOST, "localhost"], datetime.now(UTC))
    process = FinanceProcess(
        migrated.dsn_for("finance_app"), tmp_path / "finance.log", tls=made, roles=certificates.LOCAL_ROLES
    )
    secure = SecureFinance(process, made, tmp_path)
    try:
        process.start()
        yield secure
    finally:
        process.stop()


async def assert_misconfigured(client: FinanceClient, *words: str) -> None:
    with pytest.raises(DependencyError) as told:
        await client.book("ord_x:capture", "USD", NOW, POSTINGS)
    await client.close()
    assert told.value.code == "finance_misconfigured", told.value
    assert any(word in told.value.detail for word in words), told.value.detail


async def test_the_right_certificate_books_without_a_token_and_keeps_its_connection(finance):
    client = finance.books(finance.set.ingress)
    for n in range(3):
        answer = await client.book(f"ord_{n}:capture", "USD", NOW, POSTINGS)
        assert sorted(answer.postings) == sorted(POSTINGS)
    session = client._http
    assert session is not None
    assert len(session.connector._conns) == 1, "one connection is used again"
    await client.close()


def test_each_identity_may_do_what_its_roles_say_and_no_more(finance):
    post = entry("roles:entry")
    close = "/v1/periods/2026-01/close"
    balance = "/v1/accounts/platform:fees/balance?currency=USD"
    expected = {"ingress": (201, 403, 403), "reader": (403, 200, 403), "admin": (403, 200, 200)}
    for name, statuses in expected.items():
        with finance.client(getattr(finance.set, name)) as client:
            answers = client.post("/v1/entries", json=post), client.get(balance), client.post(close)
        assert tuple(answer.status_code for answer in answers) == statuses, name
        refused = {answer.json()["code"] for answer in answers if answer.status_code == 403}
        assert refused == {"role_missing"}
        if name == "admin":
            assert answers[2].json()["closed_by"] == certificates.ADMIN_IDENTITY


def test_without_a_certificate_only_the_open_paths_answer(finance):
    with finance.client(None) as client:
        assert client.get("/readyz").status_code == 200
        answer = client.post("/v1/entries", json=entry("anonymous"))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        forged = client.get("/v1/periods", headers={"Authorization": "Bearer finance-token-for-tests"})
        assert forged.status_code == 401, "no token is set here, so none is right"
    with pytest.raises(httpx.TransportError):
        httpx.get(finance.url.replace("https", "http") + "/livez")


async def test_a_certificate_of_another_ca_is_refused_and_told_as_configuration(finance):
    now = datetime.now(UTC)
    stranger = Authority("somebody else", now).issue_client([certificates.INGRESS_IDENTITY], now)
    pair = finance.pair("stranger", stranger)
    with finance.client(pair) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/periods")
    await assert_misconfigured(finance.books(pair), "UNKNOWN_CA", "closed the connection")


@pytest.mark.parametrize(
    "identities", [["spiffe://marketplace/other"], [], [certificates.INGRESS_IDENTITY, "spiffe://x/y"]]
)
async def test_a_genuine_certificate_of_nobody_known_is_refused(migrated, tmp_path, identities):
    now = datetime.now(UTC)
    made = certificates.ensure(tmp_path / "tls", [HOST], now)
    authority = Authority("both", now)
    layout.write_private(made.ca, authority.certificate)
    certificates.write_pair(authority.issue_server([HOST], now), made.server)
    process = FinanceProcess(
        migrated.dsn_for("finance_app"), tmp_path / "log", tls=made, roles=certificates.LOCAL_ROLES
    )
    secure = SecureFinance(process, made, tmp_path)
    try:
        process.start()
        pair = secure.pair("nobody", authority.issue_client(identities, now))
        with secure.client(pair) as client:
            answer = client.get("/v1/periods")
        assert (answer.status_code, answer.json()["code"]) == (403, "identity_unknown")
        await assert_misconfigured(secure.books(pair), "identity_unknown")
    finally:
        process.stop()


async def test_an_expired_certificate_is_refused_on_both_sides(finance, tmp_path):
    now = datetime.now(UTC)
    authority = Authority("both", now - timedelta(days=2))
    layout.write_private(finance.set.ca, finance.set.ca.read_text() + authority.certificate)
    old = authority.issue_client([certificates.INGRESS_IDENTITY], now - timedelta(days=1), timedelta(hours=1))
    pair = finance.pair("expired", old)
    with finance.client(pair) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/periods")
    await assert_misconfigured(finance.books(pair), "has expired at")
    # A caller whose clock is behind does not notice; Finance tells it.
    tls = ClientTls(ClientTlsFiles(finance.set.ca, pair.certificate, pair.key), clock_s=lambda: 0.0)
    lagging = FinanceClient(finance.url, "", tls=tls)
    await assert_misconfigured(lagging, "CERTIFICATE_EXPIRED", "closed the connection")


def test_a_certificate_that_expires_while_its_connection_lasts_stops_working(finance):
    now = datetime.now(UTC)
    authority = Authority("both", now)
    layout.write_private(finance.set.ca, finance.set.ca.read_text() + authority.certificate)
    short = authority.issue_client([certificates.READER_IDENTITY], now, timedelta(seconds=4))
    with finance.client(finance.pair("short", short)) as client:
        assert client.get("/v1/periods").status_code == 200
        wait_until(lambda: client.get("/v1/periods").status_code == 401, timeout_s=10)
        assert client.get("/v1/periods").json()["code"] == "certificate_expired"


async def test_a_finance_that_our_ca_does_not_name_is_not_booked_with(finance, tmp_path):
    other = tmp_path / "other-ca.pem"
    other.write_text(Authority("another", datetime.now(UTC)).certificate)
    await assert_misconfigured(finance.books(finance.set.ingress, ca=other), "certificate is not accepted")


async def test_a_missing_file_is_told_as_configuration_and_mended_without_restart(finance, monkeypatch):
    monkeypatch.setattr(client_tls, "CHECK_PERIOD_S", 0.0)
    away = finance.folder / "away.pem"
    finance.set.ingress.certificate.rename(away)
    client = finance.books(finance.set.ingress)
    with pytest.raises(DependencyError, match="finance_misconfigured"):
        await client.book("ord_f:capture", "USD", NOW, POSTINGS)
    away.rename(finance.set.ingress.certificate)
    assert (await client.book("ord_f:capture", "USD", NOW, POSTINGS)).entry_key == "ord_f:capture"
    await client.close()


async def test_an_outage_stays_an_outage(finance):
    client = finance.books(finance.set.ingress)
    await client.book("ord_a:capture", "USD", NOW, POSTINGS)
    finance.process.stop()
    with pytest.raises(DependencyError, match="finance_unavailable"):
        await client.book("ord_b:capture", "USD", NOW, POSTINGS)
    finance.process.start()
    assert (await client.book("ord_b:capture", "USD", NOW, POSTINGS)).entry_key == "ord_b:capture"
    await client.close()


async def test_both_sides_take_renewed_certificates_and_a_new_ca_without_restart(finance, monkeypatch):
    monkeypatch.setattr(client_tls, "CHECK_PERIOD_S", 0.0)
    client = finance.books(finance.set.ingress)
    await client.book("ord_1:capture", "USD", NOW, POSTINGS)
    first = client._http
    kept = finance.pair("kept", _pair_of(finance.set.ingress))
    # Everything is renewed, the CA too: as when the set in the folder comes near its end.
    certificates._renew(finance.folder / "tls", finance.set, [HOST], datetime.now(UTC))
    await client.book("ord_2:capture", "USD", NOW, POSTINGS)
    assert client._http is not first
    await client.close()
    # The old CA is trusted no more, by a process that was not restarted.
    with finance.client(kept) as old, pytest.raises(httpx.TransportError):
        old.get("/v1/periods")


async def test_half_written_files_change_nothing(finance, monkeypatch):
    monkeypatch.setattr(client_tls, "CHECK_PERIOD_S", 0.0)
    client = finance.books(finance.set.ingress)
    await client.book("ord_1:capture", "USD", NOW, POSTINGS)
    for path in (finance.set.ingress.certificate, finance.set.server.certificate):
        path.write_text("-----BEGIN CERTIFICATE-----\nMIIB")
    assert (await client.book("ord_2:capture", "USD", NOW, POSTINGS)).entry_key == "ord_2:capture"
    with finance.client(finance.set.reader) as reader:
        assert reader.get("/v1/periods").status_code == 200
    await client.close()


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    made = certificates.ensure(tmp_path / "tls", [HOST], datetime.now(UTC))
    files = {
        "FINANCE_DSN": "postgresql://x",
        "FINANCE_TLS_CERTIFICATE": str(made.server.certificate),
        "FINANCE_TLS_KEY": str(made.server.key),
        "FINANCE_TLS_CLIENT_CA": str(made.ca),
        "FINANCE_IDENTITIES": "spiffe://marketplace/ingress=poster,reader; spiffe://acme/audit?a=b=reader",
    }
    settings = read_settings(files)
    assert settings.service.token is None
    assert set(settings.service.identities) == {"spiffe://marketplace/ingress", "spiffe://acme/audit?a=b"}
    for change, named in (
        ({"FINANCE_IDENTITIES": ""}, "need each other"),
        ({"FINANCE_TLS_CLIENT_CA": ""}, "need each other"),
        ({"FINANCE_TLS_KEY": ""}, "FINANCE_TLS_KEY"),
        ({"FINANCE_TLS_KEY": str(tmp_path / "none")}, "FINANCE_TLS_KEY"),
        ({"FINANCE_IDENTITIES": "spiffe://a/b=owner"}, "FINANCE_IDENTITIES"),
        ({"FINANCE_IDENTITIES": "spiffe://a/b"}, "FINANCE_IDENTITIES"),
        ({"FINANCE_IDENTITIES": "spiffe://a/b=reader;spiffe://a/b=poster"}, "FINANCE_IDENTITIES"),
    ):
        with pytest.raises(ValueError, match=named):
            read_settings(files | change)


def test_a_set_is_kept_until_it_nears_its_end_and_is_private(tmp_path):
    now = datetime.now(UTC)
    made = certificates.ensure(tmp_path / "tls", [HOST], now)
    text = made.ingress.certificate.read_text()
    certificates.ensure(tmp_path / "tls", [HOST], now + timedelta(days=20))
    assert made.ingress.certificate.read_text() == text
    certificates.ensure(tmp_path / "tls", [HOST], now + timedelta(days=24))
    assert made.ingress.certificate.read_text() != text
    for path in (tmp_path / "tls").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def _pair_of(files: KeyPairFiles) -> KeyPair:
    return KeyPair(files.certificate.read_text(), files.key.read_text())
