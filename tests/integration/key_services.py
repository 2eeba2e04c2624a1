"""Real key services for tests, on loopback: OpenBao (Vault's API), a local AWS KMS, SoftHSM, our own proxy.

Each is started once per session and stopped by its own pid; where a program is absent, its tests are skipped
with that reason.
"""

import importlib.util
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from finance_process import wait_until
from postgres_fixture import free_port

from cluster.local import certificates
from cluster.local.certificates import Authority, KeyPairFiles
from storage.signing.devfile import DevelopmentKeyFile

REPO = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
SOFTHSM_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
SIGNER = "spiffe://marketplace/signer"
STRANGER = "spiffe://marketplace/ingress"
VAULT_TOKEN = "root-token-for-tests"
PIN = "pin-for-tests"


@dataclass
class Service:
    """A backend's address and the process behind it (None: none)."""

    address: str
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def process(
    command: list[str], log_path: Path, answers: Callable[[], bool], **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            cwd=REPO,
            env={"PATH": os.environ["PATH"], "HOME": str(log_path.parent), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:

        def ready() -> bool:
            assert child.poll() is None, log_path.read_text()
            return answers()

        wait_until(ready, log_path, timeout_s=40)
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)


def _program(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        pytest.skip(f"{name} is not installed in this environment")
    return str(found)


@contextmanager
def running_vault(folder: Path) -> Iterator[Service]:
    port = free_port()
    api = f"http://{HOST}:{port}/v1"

    def answers() -> bool:
        try:
            return httpx.get(f"{api}/sys/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    command = [
        *(_program("bao"), "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={VAULT_TOKEN}"),
        f"-dev-listen-address={HOST}:{port}",
    ]
    with process(command, folder / "vault.log", answers) as child:
        for path, kind in (
            ("sys/mounts/transit", "transit"),
            ("transit/keys/signing", "ed25519"),
            ("transit/keys/wrapping", "aes256-gcm96"),
        ):
            headers = {"X-Vault-Token": VAULT_TOKEN}
            httpx.post(f"{api}/{path}", json={"type": kind}, headers=headers, timeout=5).raise_for_status()
        token_file = folder / "vault-token"
        token_file.write_text(VAULT_TOKEN + "\n")
        token_file.chmod(0o600)
        address = f"vault:http://{HOST}:{port}/transit/signing?wrap=wrapping&token_file={token_file}"
        yield Service(address, child, folder)


@contextmanager
def running_kms(folder: Path) -> Iterator[Service]:
    port = free_port()
    endpoint = f"http://{HOST}:{port}"
    # A chain of boto3's own finds these; our settings hold no credentials.
    os.environ.update(
        AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true"
    )
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=endpoint)

    def answers() -> bool:
        try:
            client.list_keys()
        except (BotoCoreError, ClientError):
            return False
        return True

    command = [_program("ministack")]
    with process(
        command, folder / "kms.log", answers, GATEWAY_PORT=str(port), SERVICES="kms", TMPDIR=str(folder)
    ) as child:
        signing = client.create_key(KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")
        wrapping = client.create_key()
        signing_id, wrapping_id = (one["KeyMetadata"]["KeyId"] for one in (signing, wrapping))
        address = f"aws-kms:{signing_id}?wrap={wrapping_id}&region=eu-central-1&endpoint={endpoint}"
        client.close()
        yield Service(address, child, folder)


def softhsm_module() -> str | None:
    """Return SoftHSM's module; None where it, its tool or the binding is not installed."""
    if shutil.which("softhsm2-util") is None or importlib.util.find_spec("pkcs11") is None:
        return None
    return next((one for one in SOFTHSM_MODULES if Path(one).exists()), None)


def made_softhsm(folder: Path, *, load: bool = True) -> Service:
    """Make a token with its keys, in a process of its own; ``load``: this process will use it, once."""
    module = softhsm_module()
    if module is None:
        pytest.skip("softhsm2 or python-pkcs11 is not installed")
    folder.joinpath("tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    label = f"market-{time.time_ns()}"
    environment = {**os.environ, "SOFTHSM2_CONF": str(config)}
    for command in (
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", PIN],
        [sys.executable, "-c", MAKE_KEYS, module, label, PIN],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    if load:
        os.environ["SOFTHSM2_CONF"] = str(config)
    pin_file = folder / "pin"
    pin_file.write_text(PIN + "\n")
    pin_file.chmod(0o600)
    place = f"token={label};object=signing"
    return Service(
        f"pkcs11:{place}?module-path={module}&pin-source=file:{pin_file}&x-wrap=wrapping", None, folder
    )


MAKE_KEYS = """
import sys
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters
module, label, pin = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=label).open(user_pin=pin, rw=True) as session:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
    parameters = session.create_domain_parameters(KeyType.EC_EDWARDS, curve, local=True)
    parameters.generate_keypair(mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="signing")
    session.generate_key(KeyType.AES, 256, store=True, label="wrapping")
"""


@contextmanager
def running_proxy(folder: Path, backend: str, **environment: str) -> Iterator[Service]:
    """Start ``cluster.signing_proxy`` before ``backend``; it does not take ``stranger.pem``."""
    port = free_port()
    now = datetime.now(UTC)
    authority = Authority("signing proxy test CA", now)
    folder.joinpath("ca.pem").write_text(authority.certificate)
    pairs = {
        "server": authority.issue_server([HOST], now),
        "signer": authority.issue_client([SIGNER], now),
        "stranger": authority.issue_client([STRANGER], now),
    }
    for name, pair in pairs.items():
        certificates.write_pair(pair, KeyPairFiles(folder / f"{name}.pem", folder / f"{name}.key"))

    def answers() -> bool:
        try:
            return httpx.get(f"https://{HOST}:{port}/livez", verify=trusting(folder, "stranger")).is_success
        except httpx.TransportError:
            return False

    with process(
        [sys.executable, "-m", "cluster.signing_proxy"],
        folder / "proxy.log",
        answers,
        SIGNING_BACKEND=backend,
        SIGNING_IDENTITIES=SIGNER,
        SIGNING_PORT=str(port),
        SIGNING_TLS_CERTIFICATE=str(folder / "server.pem"),
        SIGNING_TLS_KEY=str(folder / "server.key"),
        SIGNING_TLS_CLIENT_CA=str(folder / "ca.pem"),
        **environment,
    ) as child:
        yield Service(proxy_address(folder, port, "signer"), child, folder)


def trusting(folder: Path, who: str | None = None) -> ssl.SSLContext:
    """A client's context; ``who`` names whose certificate it shows."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if who is not None:
        context.load_cert_chain(folder / f"{who}.pem", folder / f"{who}.key")
    return context


def proxy_address(folder: Path, port: int, who: str) -> str:
    files = f"ca={folder}/ca.pem&cert={folder}/{who}.pem&key={folder}/{who}.key"
    return f"proxy:https://{HOST}:{port}?{files}"


def made_key_file(folder: Path) -> Service:
    path = folder / "dev.json"
    DevelopmentKeyFile.create(path)
    return Service(f"file:{path}", None, folder)
