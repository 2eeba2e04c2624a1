"""Development certificates: a CA on this machine, a certificate for Finance, one for each of its callers.

For the local stack and for tests. In production the certificates come from the platform (cert-manager,
SPIRE), and nothing here runs. Keys are P-256, in files that only their user can read; the CA's key lies
beside them, which is why no production system may trust this CA. A set is kept between runs and renewed,
CA and all, when less than ``RENEW_BEFORE`` is left or a file is missing. Refuses to sign for longer than a
month, or longer than the CA itself lives.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.local.layout import PRIVATE_DIR, write_private

AUTHORITY_LIFE = timedelta(days=60)
LIFE_MAX = timedelta(days=30)
RENEW_BEFORE = timedelta(days=7)  # a stack is restarted more often than this
SKEW = timedelta(minutes=5)  # valid from a little earlier, for clocks that are behind

INGRESS_IDENTITY = "spiffe://marketplace/ingress"
BACK_OFFICE_IDENTITY = "spiffe://marketplace/back-office"
READER_IDENTITY = "spiffe://marketplace/finance-reader"
ADMIN_IDENTITY = "spiffe://marketplace/finance-admin"
# What cluster.finance is told of them, see FINANCE_IDENTITIES there.
LOCAL_ROLES = {
    INGRESS_IDENTITY: ("poster",),
    BACK_OFFICE_IDENTITY: ("poster", "reader"),
    READER_IDENTITY: ("reader",),
    ADMIN_IDENTITY: ("finance_admin", "reader"),
}
_CALLERS = {
    "ingress": INGRESS_IDENTITY,
    "back-office": BACK_OFFICE_IDENTITY,
    "reader": READER_IDENTITY,
    "admin": ADMIN_IDENTITY,
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key as PEM text."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class KeyPairFiles:
    """Where a certificate and its key lie."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class LocalCertificates:
    """The files of one set: the CA's certificate, Finance's own, and the callers' by name."""

    ca: Path
    server: KeyPairFiles
    ingress: KeyPairFiles
    back_office: KeyPairFiles
    reader: KeyPairFiles
    admin: KeyPairFiles


class Authority:
    """A CA that lives from ``now``."""

    def __init__(self, name: str, now: datetime, life: timedelta = AUTHORITY_LIFE) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._ends_at = now + life
        usage = x509.KeyUsage(
            **dict.fromkeys(
                (
                    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
                    *("key_agreement", "encipher_only", "decipher_only"),
                ),
                False,
            ),
            key_cert_sign=True,
            crl_sign=True,
        )
        self._certificate = (
            self._builder(self._name, self._key.public_key(), now, self._ends_at)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> str:
        """The CA's own certificate, PEM."""
        return _pem(self._certificate)

    @property
    def key(self) -> str:
        """The CA's key, PEM."""
        return _key_pem(self._key)

    def issue_server(self, hosts: Sequence[str], now: datetime, life: timedelta = LIFE_MAX) -> KeyPair:
        """Issue a certificate for a server that is reached by ``hosts``: names or addresses."""
        return self._issue(
            hosts[0], [_host_name(host) for host in hosts], now, life, ExtendedKeyUsageOID.SERVER_AUTH
        )

    def issue_client(self, identities: Sequence[str], now: datetime, life: timedelta = LIFE_MAX) -> KeyPair:
        """Issue a certificate for a client with URI names, such as ``spiffe://marketplace/ingress``."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in identities]
        return self._issue("client", names, now, life, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self,
        common_name: str,
        names: Sequence[x509.GeneralName],
        now: datetime,
        life: timedelta,
        use: x509.ObjectIdentifier,
    ) -> KeyPair:
        if life > LIFE_MAX or now + life > self._ends_at:
            raise ValueError(f"a development certificate lives {LIFE_MAX.days} days at most, within its CA's")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (
            self._builder(subject, key.public_key(), now, now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return KeyPair(_pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends_at: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, ends_at) - SKEW)
            .not_valid_after(ends_at)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def ensure(folder: Path, hosts: Sequence[str], now: datetime) -> LocalCertificates:
    """Return the set in ``folder``, made or renewed when it is not good for another ``RENEW_BEFORE``.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    files = LocalCertificates(
        ca=folder / "ca.pem",
        server=_files(folder, "finance"),
        ingress=_files(folder, "ingress"),
        back_office=_files(folder, "back-office"),
        reader=_files(folder, "reader"),
        admin=_files(folder, "admin"),
    )
    pairs = (files.server, files.ingress, files.back_office, files.reader, files.admin)
    if not all(pair.key.is_file() and _good(pair.certificate, now) for pair in pairs) or not _good(
        files.ca, now
    ):
        _renew(folder, files, hosts, now)
    return files


def write_pair(pair: KeyPair, files: KeyPairFiles) -> None:
    """Put a pair in its place, each file whole; the key first."""
    write_private(files.key, pair.key)
    write_private(files.certificate, pair.certificate)


def _renew(folder: Path, files: LocalCertificates, hosts: Sequence[str], now: datetime) -> None:
    authority = Authority("marketplace development CA - trust it nowhere else", now)
    write_private(folder / "ca.key", authority.key)
    write_private(files.ca, authority.certificate)
    write_pair(authority.issue_server(hosts, now), files.server)
    for name, identity in _CALLERS.items():
        write_pair(authority.issue_client([identity], now), _files(folder, name))


def _files(folder: Path, name: str) -> KeyPairFiles:
    return KeyPairFiles(folder / f"{name}.pem", folder / f"{name}.key")


def _good(path: Path, now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
