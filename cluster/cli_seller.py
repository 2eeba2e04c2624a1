"""``marketplace seller``: signing keys, what is for sale and its prices, releases, what is earned.

A bundle is a folder with a ``marketplace.json``; ``release`` packs it the same way on every machine,
signs its manifest with the seller's key, uploads and publishes it. Running it again changes nothing.
Refuses to publish a changed bundle under an old version.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from cluster import cli_prices, cli_statement
from cluster.bundles import pack
from cluster.client import MarketplaceClient
from cluster.connection import config_folder, resolve
from cluster.identities import SellerKey
from cluster.listing import publish_bundle
from cluster.private_files import write_whole
from cluster.terminal import JsonFlag, command
from domain.manifests import CHANNELS
from domain.money import format_money
from domain.releases import require_channel
from storage.signing.keys import public_key_pem

app = typer.Typer(
    no_args_is_help=True,
    help="Sell: keygen, keys, revoke-key, list, release, yank, price, discount, account, statement.",
)
app.add_typer(cli_statement.app)
app.command()(cli_prices.price)
app.add_typer(cli_prices.discount_app("seller"), name="discount")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]
KEY_NAME = "seller-key.pem"


def _key_path(chosen: Path | None) -> Path:
    return chosen or config_folder() / KEY_NAME


@app.command()
def keygen(
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the key goes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a signing key; its public half is written beside it."""
    with command(as_json=as_json) as terminal:
        path = _key_path(out)
        key = SellerKey.create(path)
        public_path = path.with_name(f"{path.stem}.public.pem")
        write_whole(public_path, public_key_pem(key.public_key).encode(), 0o644)
        terminal.say(f"Key {key.key_id} in {path} (keep it secret), public half in {public_path}.")
        terminal.result(
            {"ok": True, "key_id": key.key_id, "key_file": str(path), "public_file": str(public_path)}
        )


@app.command("list")
def list_skus(*, url: UrlOption = None, as_json: JsonFlag = False) -> None:
    """List what is for sale."""
    with command(as_json=as_json) as terminal:
        connection = resolve("seller", url=url, token_file=None)
        with MarketplaceClient(connection.base_url) as client:
            skus = list(client.skus())
        for sku in skus:
            latest = sku["latest_release"]
            prices = ", ".join(format_money(amount, currency) for currency, amount in sku["prices"].items())
            version = latest["version"] if latest else "-"
            terminal.say(f"{sku['name']:<20} {version:<10} {prices:<40} {sku['title']}")
        if not skus:
            terminal.say("Nothing is for sale yet. `marketplace seller release FOLDER` lists a bundle.")
        terminal.result({"ok": True, "items": skus})


@app.command()
def release(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder, with a marketplace.json.")],
    *,
    key: Annotated[Path | None, typer.Option("--key", help="Your signing key (PEM).")] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help=f"One of {', '.join(CHANNELS)}; default: the folder's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Pack and sign only; show what would be published.")
    ] = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Pack, sign, upload and publish a bundle."""
    with command(as_json=as_json) as terminal:
        bundle = pack(folder)
        if channel:
            bundle = replace(bundle, info=replace(bundle.info, channel=require_channel(channel)))
        signing_key = SellerKey.load(_key_path(key))
        if dry_run:
            for path in bundle.paths:
                terminal.say(f"  {path}")
            terminal.say(f"{bundle.file_name}: {bundle.size} bytes, SHA-256 {bundle.sha256}")
            terminal.result(
                {
                    "ok": True,
                    "bundle_name": bundle.file_name,
                    "bundle_sha256": bundle.sha256,
                    "bundle_bytes": bundle.size,
                    "paths": list(bundle.paths),
                }
            )
            return
        connection = resolve("seller", url=url, token_file=token_file)
        with (
            bundle.file,
            connection.client("seller") as client,
            terminal.download("upload") as on_bytes,
        ):
            listing = publish_bundle(client, bundle, signing_key, terminal.note, on_bytes)
        stamp = datetime.now(UTC)
        done = f"published at {stamp:%H:%M:%S} UTC" if listing.fresh else "was published already"
        terminal.say(f"{listing.name} {listing.version} {done}: {listing.sku_id}, {listing.release_id}.")
        terminal.result({"ok": True, **listing.as_json()})


@app.command()
def yank(
    release: Annotated[str, typer.Argument(help="The release's id; `release` and the catalogue tell it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; buyers are shown it.")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a release off sale for good; who owns it keeps it."""
    with command(as_json=as_json) as terminal:
        with resolve("seller", url=url, token_file=token_file).client("seller") as client:
            yanked = client.yank(release, reason, f"yank:{uuid4()}")
        stands = yanked.get("yanked") or {}
        terminal.say(f"{release} is off sale since {stands.get('at')}: {stands.get('reason')}")
        terminal.result({"ok": True, "release_id": release, "yanked": stands})


@app.command()
def keys(*, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False) -> None:
    """List your registered signing keys and their states."""
    with command(as_json=as_json) as terminal:
        with resolve("seller", url=url, token_file=token_file).client("seller") as client:
            registered = client.seller_keys()
        for one in registered:
            terminal.say(f"{one['key_id']}  {one['state']:<12} {one['reason'] or ''}")
        if not registered:
            terminal.say("No key is registered yet: `marketplace seller release` registers the one it uses.")
        terminal.result({"ok": True, "items": registered})


@app.command("revoke-key")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id; `marketplace seller keys` lists them.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    *,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Somebody else may have it; otherwise it is just retired.")
    ] = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a key sign nothing more; what it signed before stays published."""
    with command(as_json=as_json) as terminal:
        state = "compromised" if compromised else "retired"
        with resolve("seller", url=url, token_file=token_file).client("seller") as client:
            revoked = client.revoke_seller_key(key_id, state, reason, f"revoke:{uuid4()}")
        terminal.say(f"{key_id} is {revoked['state']} since {revoked['revoked_at']}: {revoked['reason']}")
        terminal.result({"ok": True, **revoked})
