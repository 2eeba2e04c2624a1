"""``marketplace seller``: make a signing key, list what is for sale, release and price it; what is earned.

A bundle is a folder with a ``marketplace.json``; ``release`` packs it the same way on every machine,
signs its manifest with the seller's key, uploads and publishes it. Running it again changes nothing.
Refuses to publish a changed bundle under an old version.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cluster import cli_prices, cli_statement
from cluster.bundles import pack
from cluster.client import MarketplaceClient
from cluster.connection import config_folder, resolve
from cluster.identities import SellerKey
from cluster.listing import publish_bundle
from cluster.private_files import write_whole
from cluster.terminal import JsonFlag, command
from domain.money import format_money
from storage.signing.keys import public_key_pem

app = typer.Typer(
    no_args_is_help=True, help="Sell: keygen, list, release, price, discount, account, statement."
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
        token = connection.require_token("seller")
        with MarketplaceClient(connection.base_url, token) as client:
            listing = publish_bundle(client, bundle, signing_key, terminal.note)
        stamp = datetime.now(UTC)
        done = f"published at {stamp:%H:%M:%S} UTC" if listing.fresh else "was published already"
        terminal.say(f"{listing.name} {listing.version} {done}: {listing.sku_id}, {listing.release_id}.")
        terminal.result({"ok": True, **listing.as_json()})
