"""Proofs that one purchase was done right, by tools that are not ours wherever there are any.

``openssl`` checks the licence's signature, ``pyrage`` opens the delivery, Finance's own figures show the
money, the inbox the webhook, the order's events that none is missing. Each proof returns a sentence or
raises ``ProofError`` with what was expected and what was found.
"""

import hashlib
import shutil
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pyrage

from cluster.cli_statement import PayeeClient
from cluster.client import ClientError, MarketplaceClient
from cluster.client_documents import Delivery, Order
from cluster.local.layout import Layout, read_json
from domain.dsse import Envelope, pae
from domain.licences import PAYLOAD_TYPE, unarmour
from domain.money import BASIS_POINTS, format_money
from domain.orders.booking import CLEARING, FEES, capture_entry_key
from domain.proposals.documents import GENESIS, Kind, PlatformFees

OPENSSL_TIMEOUT_S = 10.0
FINANCE_TIMEOUT_S = 10.0
HTTP_OK = 200


class ProofError(ClientError):
    """Something that must hold does not."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "proof_failed")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the proofs look at: the order, its one delivery, and the bundle's digest as its seller had it."""

    order: Order
    delivery: Delivery
    bundle_sha256: str


def require(*, holds: bool, text: str) -> None:
    """Raise ``ProofError`` unless something holds."""
    if not holds:
        raise ProofError(text)


def licence_by_openssl(evidence: Evidence, client: MarketplaceClient) -> str:
    """Verify the licence's signature over its DSSE encoding with the platform's published PEM key."""
    openssl = shutil.which("openssl")
    require(holds=openssl is not None, text="openssl is not on PATH; install it to check licences.")
    envelope = Envelope.parse(unarmour(evidence.delivery["licence"]["armoured"]))
    require(holds=envelope.payload_type == PAYLOAD_TYPE, text="The document is not a licence.")
    signature = envelope.signatures[0]
    pems = {key["key_id"]: key["pem"] for key in client.platform_keys()}
    require(
        holds=signature.key_id in pems,
        text=f"GET /v1/keys does not show {signature.key_id}, which signed the licence.",
    )
    with tempfile.TemporaryDirectory(prefix="ilv-proof-") as name:
        folder = Path(name)
        (folder / "platform.pem").write_text(pems[str(signature.key_id)], encoding="ascii")
        (folder / "signed").write_bytes(pae(PAYLOAD_TYPE, envelope.payload))
        (folder / "signature").write_bytes(signature.sig)
        done = subprocess.run(
            [
                *(str(openssl), "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "platform.pem"),
                *("-sigfile", "signature", "-in", "signed"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=OPENSSL_TIMEOUT_S,
            check=False,
        )
    require(
        holds=done.returncode == 0, text=f"openssl refuses it: {(done.stdout + done.stderr).strip()[:200]}"
    )
    return f"openssl accepts the signature of {signature.key_id}"


def delivery_by_pyrage(evidence: Evidence, encrypted: Path, identity_text: str) -> str:
    """Open the delivered file with an independent age implementation and compare the seller's digest."""
    identity = pyrage.x25519.Identity.from_str(identity_text)
    try:
        plaintext = pyrage.decrypt(encrypted.read_bytes(), [identity])
    except pyrage.DecryptError as error:
        raise ProofError(f"pyrage cannot open the delivery: {error}") from None
    digest = hashlib.sha256(plaintext).hexdigest()
    require(
        holds=digest == evidence.bundle_sha256,
        text=f"The delivered bundle is {digest[:16]}…, its seller signed {evidence.bundle_sha256[:16]}….",
    )
    return f"pyrage opens it: {len(plaintext)} bytes, the seller's {digest[:12]}…"


def finance_books(evidence: Evidence, layout: Layout) -> str:
    """Check Finance's entry for the order to the unit, and that its books balance."""
    order = evidence.order
    with _finance(layout) as http:
        entry = _read(http, f"/v1/entries/{capture_entry_key(order['id'])}")
        balance = _read(http, f"/v1/trial-balance?currency={order['currency']}")
    found = sorted((one["account"], one["amount_minor"]) for one in entry["postings"])
    expected = expected_postings(order)
    require(
        holds=found == expected and entry["currency"] == order["currency"],
        text=f"Finance booked {found}, the order makes {expected}.",
    )
    require(holds=balance["sum_minor"] == 0, text=f"The trial balance is {balance['sum_minor']}, not zero.")
    amount = format_money(order["total_minor"], order["currency"])
    return f"{amount} booked to the unit; trial balance zero"


def _finance(layout: Layout) -> httpx.Client:
    """Finance, as its reader's certificate lets one in."""
    local = read_json(layout.local_json)
    reader = local.get("finance_reader", {})
    tls = ssl.create_default_context(cafile=reader.get("ca"))
    tls.load_cert_chain(str(reader.get("certificate")), str(reader.get("key")))
    return httpx.Client(base_url=str(local.get("finance_url")), verify=tls, timeout=FINANCE_TIMEOUT_S)


def seller_statement(evidence: Evidence, local: dict[str, Any], layout: Layout) -> str:
    """Check that the seller's statement of this month adds up, and ends with the balance that Finance has."""
    currency = evidence.order["currency"]
    period = datetime.now(UTC).strftime("%Y-%m")
    with PayeeClient(local["base_url"], local["tokens"]["seller"]) as seller:
        made = seller.statement(period, currency, None)
    parts = ("opening", "sales", "fees", "refunds", "disputes", "payouts", "other")
    total = sum(made[f"{part}_minor"] for part in parts)
    with _finance(layout) as http:
        account = f"seller:{made['payee_id']}:payable"
        balance = _read(http, f"/v1/accounts/{account}/balance?currency={currency}")
    require(
        holds=total == made["closing_minor"] == -balance["balance_minor"],
        text=f"The statement leads to {total}, Finance owes {-balance['balance_minor']}.",
    )
    return f"{period}: {format_money(made['closing_minor'], currency)} owed, as Finance has it"


def expected_postings(order: Order) -> list[tuple[str, int]]:
    """Work out from the order alone what its entry must hold, sorted by account.

    Of a marketplace whose fees and splits are as they begin: a share of each line's net for the platform, the
    rest for the seller.
    """
    fees = GENESIS[Kind.PLATFORM_FEES]
    assert isinstance(fees, PlatformFees), "the document of that kind"
    sums = {CLEARING: order["total_minor"]}
    for line in order["lines"]:
        net_minor = line["amount_minor"]
        for tax in line["taxes"]:
            net_minor -= tax["amount_minor"]
            account = f"tax:{tax['jurisdiction']}:payable"
            sums[account] = sums.get(account, 0) - tax["amount_minor"]
        fee_minor = net_minor * fees.fee_bps // BASIS_POINTS
        for account, minor in (
            (FEES, fee_minor),
            (f"seller:{line['seller_id']}:payable", net_minor - fee_minor),
        ):
            sums[account] = sums.get(account, 0) - minor
    return sorted((account, minor) for account, minor in sums.items() if minor)


def _read(http: httpx.Client, path: str) -> dict[str, Any]:
    try:
        response = http.get(path)
    except httpx.TransportError as error:
        raise ProofError(f"Finance does not answer: {error or type(error).__name__}") from error
    require(holds=response.status_code == HTTP_OK, text=f"Finance answers {response.status_code} to {path}.")
    document: dict[str, Any] = response.json()
    return document


def webhook_received(evidence: Evidence, postgres_dsn: str) -> str:
    """Check that Stripe's signed webhook was stored and applied exactly once."""
    with psycopg.connect(postgres_dsn, connect_timeout=5) as connection:
        rows = connection.execute(
            "SELECT event_id, outcome FROM market.inbox WHERE order_id = %s AND kind = %s",
            [evidence.order["id"], "payment_intent.succeeded"],
        ).fetchall()
    require(
        holds=len(rows) == 1 and rows[0][1] == "applied",
        text=f"The inbox holds {rows}, not one applied payment_intent.succeeded.",
    )
    return f"{rows[0][0]} kept and applied"


def events_complete(evidence: Evidence, client: MarketplaceClient) -> str:
    """Check that the order's events are 1..n without gap or duplicate, and end in delivery."""
    events = client.order_events(evidence.order["id"])
    numbers = [event["seq"] for event in events]
    require(
        holds=numbers == list(range(1, len(numbers) + 1)) and evidence.order["seq"] == len(numbers),
        text=f"The order's events are numbered {numbers}, its state {evidence.order['seq']}.",
    )
    kinds = [event["kind"] for event in events]
    require(holds="order.delivered" in kinds, text=f"No delivery among {kinds}.")
    return f"{len(numbers)} events, 1..{len(numbers)} without a gap"
