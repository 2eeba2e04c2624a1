"""``marketplace buyer``: make an identity, buy, cancel, fetch, decrypt, verify.

``buy`` does all of it; the other verbs are its steps, for a second try or for other tools' files. What a
buyer gets is believed only on a trusted platform key: see ``cluster.trust`` for ``--trust-key`` and for
what is pinned at first use. Exit status 0 only if everything that was asked for held.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from cluster import (
    cli_licences,
    identities,
    inspection,
    offline_files,
    receiving,
    revocation_memory,
    trust,
    unsealing,
)
from cluster.client import HTTP_UNAVAILABLE, ApiError, ClientError, MarketplaceClient
from cluster.client_documents import Order, OrderEvent, QuotedLine
from cluster.connection import Connection, config_folder, resolve
from cluster.offline_files import OFFLINE_SUFFIX
from cluster.private_files import read_bounded
from cluster.purchase import (
    CHECKOUT_TIMEOUT_S,
    FOLLOW_TIMEOUT_S,
    Wish,
    confirm_payment,
    follow_to_end,
    wait_for_payment,
)
from cluster.receiving import AGE_SUFFIX, LICENCE_SUFFIX, MANIFEST_SUFFIX, Received
from cluster.terminal import EXIT_FAILED, JsonFlag, Terminal, command
from cluster.verification import (
    FAILED,
    OK,
    SKIPPED,
    Check,
    check_activation,
    check_key_list,
    check_licence,
    check_online,
    passed,
    recorded_at,
    told_log_proof,
)
from domain import canonical_json
from domain.dsse import ENVELOPE_BYTES_MAX
from domain.manifests import CHANNELS
from domain.money import format_money, is_currency
from domain.revocations import DOCUMENT_BYTES_MAX, RevocationList
from storage.age.recipients import public_half, recipient_text

app = typer.Typer(no_args_is_help=True, help="Buy, and hold licences.")
app.add_typer(cli_licences.app)  # without a name: its verbs stand beside these

IDENTITY_NAME = "identity.txt"
CARD = "pm_card_visa"

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", envvar="MARKETPLACE_IDENTITY", help="Your age identity file."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option("--trust-key", help="The platform's public key (PEM), instead of the one seen first."),
]
TrustRootOption = Annotated[
    Path | None,
    typer.Option("--trust-root", help="The public key (PEM) of the root that signs the key list."),
]
DiscountOption = Annotated[str | None, typer.Option("--discount", help="A discount code.")]
CountryOption = Annotated[
    str | None, typer.Option("--country", help="Where you are, such as DE; tax may depend on it.")
]
PostalCodeOption = Annotated[str | None, typer.Option("--postal-code", help="… and where there.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for what you receive.")]


def _identity_path(chosen: Path | None) -> Path:
    return chosen or config_folder() / IDENTITY_NAME


def _trusted(
    trust_key: Path | None,
    trust_root: Path | None,
    identity: Path | None,
    base_url: str,
    client: MarketplaceClient | None,
) -> trust.TrustedKeys:
    folder = _identity_path(identity).parent
    return trust.chosen(trust_key, trust_root, folder, base_url, client, datetime.now(UTC))


@app.command()
def keygen(
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the identity goes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an age identity (the same file as `age-keygen` writes)."""
    with command(as_json=as_json) as terminal:
        path = _identity_path(out)
        recipient = identities.create_identity(path, datetime.now(UTC))
        terminal.say(f"{recipient}\nYour identity is in {path}. Keep it secret, and keep a copy.")
        terminal.result({"ok": True, "recipient": recipient, "identity_file": str(path)})


@app.command()
def quote(
    sku: Annotated[str, typer.Argument(help="Name or id of what to buy.")],
    *,
    quantity: Annotated[int, typer.Option("--quantity", min=1, help="Seats.")] = 1,
    currency: Annotated[str, typer.Option("--currency", help="ISO 4217 code.")] = "USD",
    discount: DiscountOption = None,
    country: CountryOption = None,
    postal_code: PostalCodeOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell what something costs now, with discount and tax; nothing is bought."""
    with command(as_json=as_json) as terminal:
        with resolve("buyer", url=url, token_file=token_file).client("buyer") as client:
            where = _where(discount, country, postal_code)
            wish = Wish(client.sku(sku)["id"], quantity, currency, "", None, where=where)
            quoted = client.quote(wish.cart())
        _say_costs(terminal.say, quoted["lines"], quoted["currency"], quoted["total_minor"])
        terminal.result({"ok": True, **quoted})


@app.command()
def buy(
    sku: Annotated[str, typer.Argument(help="Name or id of what to buy.")],
    *,
    quantity: Annotated[int, typer.Option("--quantity", min=1, help="Seats.")] = 1,
    currency: Annotated[str, typer.Option("--currency", help="ISO 4217 code.")] = "USD",
    channel: Annotated[
        str, typer.Option("--channel", help=f"Which releases: {', '.join(CHANNELS)}.")
    ] = CHANNELS[0],
    mode: Annotated[str, typer.Option("--mode", help="recipient or released_key.")] = "recipient",
    recipient_file: Annotated[
        Path | None, typer.Option("--recipient-file", help="Seal for this age1… key instead of yours.")
    ] = None,
    card: Annotated[str, typer.Option("--card", help="Stripe payment method to pay with.")] = CARD,
    checkout: Annotated[
        bool, typer.Option("--checkout", help="Pay on Stripe's hosted page instead.")
    ] = False,
    discount: DiscountOption = None,
    country: CountryOption = None,
    postal_code: PostalCodeOption = None,
    out: OutOption = Path("purchases"),
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Repeat an interrupted purchase safely.")
    ] = None,
    identity: IdentityOption = None,
    trust_key: TrustOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Buy, pay, receive, decrypt and verify."""
    with command(as_json=as_json) as terminal:
        if mode not in ("recipient", "released_key"):
            raise typer.BadParameter("--mode is recipient or released_key")
        if not is_currency(currency):
            raise typer.BadParameter(f"--currency {currency} is not an ISO 4217 code sold here, such as USD")
        connection = resolve("buyer", url=url, token_file=token_file)
        recipient = _recipient(mode, recipient_file, identity)
        with connection.client("buyer") as client:
            trusted = _trusted(trust_key, trust_root, identity, connection.base_url, client)
            terminal.note(f"Trusting {', '.join(trusted.records)}: {trusted.source}.")
            method = "checkout" if checkout else "payment_intent"
            where = _where(discount, country, postal_code)
            wish = Wish(client.sku(sku)["id"], quantity, currency, mode, recipient, method, where, channel)
            key = idempotency_key or f"buy-{uuid4()}"
            order = _buy(client, connection, wish, card, key, terminal)
            folder = receiving.folder_of(out, order["id"])
            with terminal.download("payload") as on_bytes:
                received = receiving.fetch_order(client, order["id"], trusted, folder, on_bytes)
            received = [
                unsealing.unseal(client, one, _identity_path(identity), terminal.note) for one in received
            ]
            checks = inspection.verify_received(client, received, trusted, order["buyer_id"])
        _report(terminal, order, received, checks)


def _where(discount: str | None, country: str | None, postal_code: str | None) -> dict[str, str]:
    named = {"discount_code": discount, "country": country, "postal_code": postal_code}
    return {name: value for name, value in named.items() if value is not None}


def _say_costs(
    say: Callable[[str], None], lines: Sequence[QuotedLine], currency: str, total_minor: int
) -> None:
    for line in lines:
        price_minor = line["unit_price_minor"] * line["quantity"]
        say(f"{line['quantity']} x {line['sku_name']:<20} {format_money(price_minor, currency)}")
        if line["discount_minor"]:
            say(f"  discount                 {format_money(-line['discount_minor'], currency)}")
        for tax in line["taxes"]:
            how = "included" if tax["inclusive"] else "on top"
            say(f"  tax {tax['jurisdiction']:<20} {format_money(tax['amount_minor'], currency)} {how}")
        if line["rounding_minor"]:
            say(f"  rounding                 {format_money(line['rounding_minor'], currency)}")
    say(f"in all                     {format_money(total_minor, currency)}")


def _recipient(mode: str, recipient_file: Path | None, identity: Path | None) -> str | None:
    if mode == "released_key":
        return None
    if recipient_file:
        return identities.load_recipient(recipient_file)
    return recipient_text(public_half(identities.load_identity(_identity_path(identity))))


def _buy(
    client: MarketplaceClient, connection: Connection, wish: Wish, card: str, key: str, terminal: Terminal
) -> Order:
    order = client.place_order(wish.body(), key)
    terminal.note(f"Order {order['id']} (key {key}):")
    _say_costs(terminal.note, order["lines"], order["currency"], order["total_minor"])
    order = wait_for_payment(client, order)
    timeout_s = FOLLOW_TIMEOUT_S
    if order["status"] == "awaiting_payment":
        if wish.method == "checkout":
            page: str | None = order["payment"]["checkout_url"]
        else:
            page = confirm_payment(connection.stripe_api, order, card)
        if page:
            terminal.note(f"Pay here, within half an hour: {page}")
            timeout_s = CHECKOUT_TIMEOUT_S

    def tell(event: OrderEvent) -> None:
        terminal.note(f"  {event['seq']:>3} {event['kind']:<24} {event['at']}")
        if event["kind"] == "order.payment_authorised":
            terminal.note("      The amount is held, not charged: a person looks at the order first.")

    return follow_to_end(client, order["id"], tell, timeout_s)


def _report(terminal: Terminal, order: Order, received: list[Received], checks: list[Check]) -> None:
    terminal.checks(checks)
    for one in received:
        terminal.say(str(one.plaintext or one.encrypted))
    holds = passed(checks)
    terminal.result(
        {
            "ok": holds,
            "order": order,
            "files": [_files(one) for one in received],
            "checks": [check.as_json() for check in checks],
        }
    )
    if not holds:
        raise typer.Exit(EXIT_FAILED)


def _files(one: Received) -> dict[str, Any]:
    return {
        "delivery_id": one.manifest.delivery_id,
        "encrypted": str(one.encrypted),
        "manifest": str(one.manifest_path),
        "licence": str(one.licence_path),
        "plaintext": str(one.plaintext) if one.plaintext else None,
        "sha256": one.manifest.plaintext.sha256,
    }


@app.command()
def cancel(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Cancel an order that is not paid yet."""
    with command(as_json=as_json) as terminal:
        with resolve("buyer", url=url, token_file=token_file).client("buyer") as client:
            cancelled = client.cancel_order(order, f"cancel-{uuid4()}")
        terminal.say(f"{order} is {cancelled['status']}; its payment is being made unpayable.")
        terminal.result({"ok": True, "order": cancelled})


@app.command()
def fetch(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    *,
    out: OutOption = Path("purchases"),
    identity: IdentityOption = None,
    trust_key: TrustOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch an order's deliveries, checked against the signed manifest; decrypt later."""
    with command(as_json=as_json) as terminal:
        folder = receiving.folder_of(out, order)
        connection = resolve("buyer", url=url, token_file=token_file)
        with connection.client("buyer") as client:
            trusted = _trusted(trust_key, trust_root, identity, connection.base_url, client)
            with terminal.download("payload") as on_bytes:
                received = receiving.fetch_order(client, order, trusted, folder, on_bytes)
        for one in received:
            terminal.say(str(one.encrypted))
        terminal.result({"ok": True, "files": [_files(one) for one in received], "trust": trusted.source})


@app.command()
def decrypt(
    file: Annotated[Path, typer.Argument(help="A fetched .age file, with its .delivery.json beside it.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where the bundle goes.")] = None,
    identity: IdentityOption = None,
    trust_key: TrustOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Decrypt a fetched file and check it; asks for the key of a released-key delivery."""
    with command(as_json=as_json) as terminal:
        plain_path = file.with_name(file.name.removesuffix(AGE_SUFFIX))
        if plain_path == file:
            raise typer.BadParameter(f"{file} does not end in {AGE_SUFFIX}")
        connection = resolve("buyer", url=url, token_file=token_file)
        with MarketplaceClient(connection.base_url, connection.token) as client:
            trusted = _trusted(trust_key, trust_root, identity, connection.base_url, client)
            manifest_path = plain_path.with_name(f"{plain_path.name}{MANIFEST_SUFFIX}")
            licence_path = plain_path.with_name(f"{plain_path.name}{LICENCE_SUFFIX}")
            manifest = receiving.load_received(file, manifest_path, trusted)
            one = Received(manifest, file, manifest_path, licence_path)
            secret = unsealing.identity_for(client, one, _identity_path(identity))
        if secret is None:
            raise ClientError(
                f"The delivery is sealed for {manifest.recipient}, and your identity at "
                f"{_identity_path(identity)} is another one or missing. Name the right one with --identity.",
                "identity_mismatch",
            )
        target = receiving.decrypt_received(file, manifest, secret, out or plain_path)
        terminal.say(f"{target}: {manifest.plaintext.size} bytes, SHA-256 {manifest.plaintext.sha256}")
        terminal.result({"ok": True, "file": str(target), "sha256": manifest.plaintext.sha256})


@app.command()
def verify(
    licence: Annotated[Path, typer.Argument(help="An armoured licence, or an offline licence file.")],
    *,
    delivery: Annotated[
        Path | None, typer.Option("--delivery", help="Its delivery manifest; default: the one beside it.")
    ] = None,
    buyer_id: Annotated[str | None, typer.Option("--buyer-id", help="Whose licence it must be.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody; revocation is as --revocations says.")
    ] = False,
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="A revocation list that was fetched before.")
    ] = None,
    activation: Annotated[
        Path | None, typer.Option("--activation", help="A machine's activation of the licence.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", help="The machine that the activation must be of.")
    ] = None,
    identity: IdentityOption = None,
    trust_key: TrustOption = None,
    trust_root: TrustRootOption = None,
    url: UrlOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a licence and its delivery, offline and online; status 1 when any check fails."""
    with command(as_json=as_json) as terminal:
        connection = None if offline and trust_key else resolve("buyer", url=url, token_file=None)
        base_url = connection.base_url if connection else ""
        with MarketplaceClient(base_url) as client:
            trusted = _trusted(trust_key, trust_root, identity, base_url, None if offline else client)
            held = offline_files.read(licence, trusted)
            trusted = held.trusted
            report = None if offline else client.verify_licence(held.armoured, buyer_id)
            given = _given_list(held, revocations, None if offline else client)
            listed, checks = _judged_list(given, held, _identity_path(identity).parent, base_url)
            now = datetime.now(UTC)
            log_proof = held.log_proof or told_log_proof(report)
            found, judged = check_licence(
                held.armoured, trusted, now, buyer_id, recorded_at(report), listed, log_proof
            )
            checks += judged + check_key_list(trusted, now)
            if found:
                seat = read_bounded(activation, ENVELOPE_BYTES_MAX) if activation else None
                checks += check_activation(seat, fingerprint, found, trusted, now)
            base = licence.with_name(licence.name.removesuffix(OFFLINE_SUFFIX).removesuffix(LICENCE_SUFFIX))
            checks += inspection.check_delivery(base, delivery, found, trusted, None if offline else client)
            if report is None:
                unknown = "" if given else " Revocation is not known: name a list with --revocations."
                checks.append(Check("online", SKIPPED, f"Not asked (--offline).{unknown}"))
            else:
                checks += check_online(report)
                if found:
                    checks.append(inspection.check_release(client, found.release_id))
        terminal.checks(checks)
        terminal.result(
            {
                "ok": passed(checks),
                "trust": trusted.source,
                "checks": [check.as_json() for check in checks],
            }
        )
        if not passed(checks):
            raise typer.Exit(EXIT_FAILED)


def _given_list(
    held: offline_files.HeldLicence, path: Path | None, client: MarketplaceClient | None
) -> bytes | Check | None:
    """Return the revocation list to judge by: the one that was named, the newest, or the held file's own."""
    if path:
        return read_bounded(path, DOCUMENT_BYTES_MAX)
    return _fetched_list(client) if client else held.revocations


def _fetched_list(client: MarketplaceClient) -> bytes | Check:
    """Fetch the revocation list, or say why it cannot be had now."""
    try:
        return canonical_json.dumps(client.revocations())
    except ApiError as error:
        if error.status != HTTP_UNAVAILABLE:
            raise
        # The marketplace itself says in other checks whether the licence is revoked.
        return Check("revocation list", SKIPPED, f"It cannot be had now: {error.detail}")
    except ValueError:
        raise ClientError(
            "The marketplace answers with what is no revocation list.", "answer_malformed"
        ) from None


def _judged_list(
    data: bytes | Check | None,
    held: offline_files.HeldLicence,
    folder: Path,
    base_url: str,
) -> tuple[RevocationList | None, list[Check]]:
    """Judge a revocation list. One that is refused is a finding and hides no other one."""
    if data is None:
        return None, []
    if isinstance(data, Check):
        return None, [data]
    try:
        listed = revocation_memory.accept(data, held.trusted, folder, base_url)
    except ClientError as refused:
        told = revocation_memory.unbelieved(data, held.licence_id)
        return None, [Check("revocation list", FAILED, f"{refused.text} {told}", refused.code)]
    return listed, [Check("revocation list", OK, f"Version {listed.version} is signed by a trusted key.")]
