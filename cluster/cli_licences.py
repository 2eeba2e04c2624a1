"""``marketplace buyer``: what one does with licences after buying them.

List them, hand one to another buyer, renew one, activate a machine, take a file for use without a network,
and prove that one owns a licence. A licence's own key lies beside the age identity, one file per licence.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from cluster.client import ClientError, MarketplaceClient
from cluster.connection import config_folder, resolve
from cluster.identities import SellerKey as SigningKey
from cluster.offline_files import OFFLINE_SUFFIX
from cluster.private_files import read_bounded, write_whole
from cluster.terminal import JsonFlag, Terminal, command
from domain import canonical_json
from domain.activations import open_envelope
from domain.dsse import ENVELOPE_BYTES_MAX, sign_all
from domain.ownership import PAYLOAD_TYPE, PURPOSES, Challenge
from domain.strict_json import DocumentError

app = typer.Typer()

ACTIVATION_SUFFIX = ".activation.json"
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]
LicenceId = Annotated[str, typer.Argument(help="The licence's id, lic_….")]


@contextmanager
def _client(
    url: str | None, token_file: Path | None, *, as_json: bool, anonymous: bool = False
) -> Iterator[tuple[Terminal, MarketplaceClient]]:
    with command(as_json=as_json) as terminal:
        connection = resolve("buyer", url=url, token_file=token_file)
        token = None if anonymous else connection.require_token("buyer")
        with MarketplaceClient(connection.base_url, token) as client:
            yield terminal, client


def _tell(terminal: Terminal, text: str, document: dict[str, Any]) -> None:
    terminal.say(text)
    terminal.result({"ok": True} | document)


@app.command()
def licences(*, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False) -> None:
    """List the licences that are yours now."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        found = list(client.licences())
        for one in found:
            terminal.say(f"{one['id']}  {one['status']:<10} {one['quantity']:>5} seats  {one['sku_id']}")
        terminal.result({"ok": True, "licences": found})


@app.command()
def offline(
    licence: LicenceId,
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the file goes.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a file with which `verify --offline` answers for a day, without a network."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        path = out or Path(f"{licence}{OFFLINE_SUFFIX}")
        write_whole(path, client.offline_licence(licence).encode(), 0o644)
        _tell(terminal, str(path), {"file": str(path)})


@app.command()
def transfer(
    licence: LicenceId,
    *,
    to: Annotated[str, typer.Option("--to", help="The other buyer's id.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Offer your licence to another buyer, who has seven days to accept."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        found = client.act_on_licence(licence, "transfers", {"to_buyer_id": to}, f"transfer-{uuid4()}")
        _tell(
            terminal,
            f"{found['id']} waits for {to} until {found['expires_at']}. Until then the licence is yours.",
            {"transfer": found},
        )


@app.command("accept-transfer")
def accept_transfer(
    transfer_id: Annotated[str, typer.Argument(metavar="TRANSFER", help="The transfer's id, ltr_….")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take over a licence that was offered to you."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        found = client.act_on_transfer(transfer_id, "acceptance", f"accept-{transfer_id}")
        _tell(terminal, f"{found['new_licence_id']} is yours.", {"transfer": found})


@app.command("end-transfer")
def end_transfer(
    transfer_id: Annotated[str, typer.Argument(metavar="TRANSFER", help="The transfer's id, ltr_….")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Withdraw your offer, or decline one that was made to you."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        found = client.act_on_transfer(transfer_id, "end", f"end-{transfer_id}")
        _tell(terminal, f"{found['id']} is {found['status']}.", {"transfer": found})


@app.command()
def renew(
    licence: LicenceId,
    *,
    renews: Annotated[str, typer.Option("--renews", help="The licence that this one is to follow.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a licence that you bought begin where another one of yours ends."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        found = client.act_on_licence(licence, "renewals", {"renews": renews}, f"renew-{licence}-{renews}")
        _tell(terminal, f"{found['id']} follows {renews}.", {"licence": found})


@app.command()
def activate(
    licence: LicenceId,
    *,
    fingerprint: Annotated[str, typer.Option("--fingerprint", help="What tells the machine apart.")],
    name: Annotated[str, typer.Option("--name", help="The machine's name, for your list.")] = "unnamed",
    key: Annotated[
        Path | None, typer.Option("--key", help="Prove ownership by this key instead of sending a token.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the activation goes.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a seat of your licence for a machine; again, to renew it."""
    with _client(url, token_file, as_json=as_json, anonymous=key is not None) as (terminal, client):
        body: dict[str, Any] = {"fingerprint": fingerprint, "name": name}
        if key is not None:
            body["proof"] = _proof(client, licence, "activation", key)
        found = client.act_on_licence(licence, "activations", body, f"activate-{uuid4()}")
        path = out or Path(f"{licence}{ACTIVATION_SUFFIX}")
        write_whole(path, canonical_json.dumps(found["envelope"]))
        _tell(
            terminal,
            f"{path}: {found['seat']['id']} until {found['expires_at']}.",
            {"activation": found, "file": str(path)},
        )


@app.command()
def deactivate(
    activation: Annotated[Path, typer.Argument(help="The activation's file.")],
    *,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Free the seat of an activation."""
    with _client(url, None, as_json=as_json, anonymous=True) as (terminal, client):
        text = read_bounded(activation, ENVELOPE_BYTES_MAX).decode("utf-8", "replace")
        found = client.act_on_activation(_activation_id(activation, text), "release", {"activation": text})
        activation.unlink()
        _tell(terminal, f"{found['id']} is free.", {"released": found["released"]})


@app.command("owner-key")
def owner_key(
    licence: LicenceId,
    *,
    key: Annotated[
        Path | None, typer.Option("--key", help="The key's file; made when there is none.")
    ] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Register a key that proves that the licence is yours."""
    with _client(url, token_file, as_json=as_json) as (terminal, client):
        path = key or config_folder() / "licences" / f"{Path(licence).name}.pem"
        signing = SigningKey.load(path) if path.exists() else SigningKey.create(path)
        found = client.act_on_licence(
            licence, "owner-keys", {"public_key": _base64(signing.public_key)}, f"key-{uuid4()}"
        )
        _tell(terminal, f"{found['key_id']} in {path}. Keep it secret.", {**found, "file": str(path)})


@app.command()
def prove(
    licence: LicenceId,
    *,
    key: Annotated[Path, typer.Option("--key", help="The licence's key.")],
    purpose: Annotated[str, typer.Option("--purpose", help="ownership or activation.")] = "ownership",
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer a fresh challenge with the licence's key; prints the proof, good once and for five minutes."""
    with _client(url, None, as_json=as_json, anonymous=True) as (terminal, client):
        if purpose not in PURPOSES:
            raise typer.BadParameter(f"--purpose is {' or '.join(PURPOSES)}")
        proof = _proof(client, licence, purpose, key)
        _tell(terminal, json.dumps(proof), {"proof": proof})


def _proof(client: MarketplaceClient, licence: str, purpose: str, key: Path) -> dict[str, Any]:
    asked = client.act_on_licence(
        licence, "ownership-challenges", {"purpose": purpose}, f"challenge-{uuid4()}"
    )
    # What is signed is built here from its parts, so that a server cannot have anything else signed.
    challenge = Challenge(licence, str(asked["nonce"]), purpose)
    (envelope,) = sign_all(SigningKey.load(key), PAYLOAD_TYPE, [challenge.payload()])
    proof: dict[str, Any] = json.loads(envelope.dumps())
    return proof


def _activation_id(path: Path, text: str) -> str:
    try:
        return open_envelope(text)[1].activation_id
    except DocumentError as error:
        raise ClientError(f"{path} is no activation: {error.detail}", error.code) from None


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
