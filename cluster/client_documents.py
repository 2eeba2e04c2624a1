"""The documents of the HTTP API as typed dictionaries: what the client hands out, as the server wrote it.

Names and meaning: ``docs/api.md``. Amounts are minor units, times RFC 3339 in UTC. Nothing here is
checked at run time; signed documents inside are verified by ``cluster.verification`` before use.
"""

from typing import Any, NotRequired, TypedDict


class ReleaseSummary(TypedDict):
    """The newest published release of a SKU."""

    id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    published_at: str


class Sku(TypedDict):
    """A thing on sale; ``prices`` are minor units by currency, the list of number ``price_version``."""

    id: str
    name: str
    title: str
    description: str
    seller_id: str
    prices: dict[str, int]
    price_version: int
    tax_category: str
    created_at: str
    latest_release: ReleaseSummary | None


class Upload(TypedDict):
    """Where a release's bundle is to be put."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: str


class Release(TypedDict, total=False):
    """A release; the digests are present once it is published, ``upload`` until then."""

    id: str
    sku_id: str
    version: str
    state: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    payload_sha256: str
    channel: str
    yanked: dict[str, str] | None
    upload: Upload


class Channel(TypedDict):
    """A channel's newest published release."""

    channel: str
    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    published_at: str


class UploadPart(TypedDict):
    """A part of an upload; ``etag`` is None until it has come."""

    number: int
    bytes: int
    etag: str | None
    url: str


class UploadParts(TypedDict):
    """An upload in parts; they go on at ``next_part``."""

    part_bytes: int
    parts_total: int
    parts: list[UploadPart]
    next_part: int | None
    expires_at: str


class RegisteredKey(TypedDict):
    """A seller's key and its state."""

    key_id: str
    state: str
    registered_at: str
    revoked_at: str | None
    reason: str | None


class Tax(TypedDict):
    """One jurisdiction's tax on a line; ``rate_ppm`` in millionths."""

    jurisdiction: str
    rate_ppm: int
    amount_minor: int
    inclusive: bool


class QuotedLine(TypedDict):
    """One line of a cart, with what it costs."""

    line_no: int
    sku_id: str
    sku_name: str
    seller_id: str
    release_id: str
    version: str
    quantity: int
    unit_price_minor: int
    discount_minor: int
    taxes: list[Tax]
    rounding_minor: int
    amount_minor: int


class Quote(TypedDict):
    """What a cart costs now."""

    currency: str
    price_minor: int
    discount_minor: int
    tax_minor: int
    total_minor: int
    lines: list[QuotedLine]


class Discount(TypedDict):
    """A discount code and how many orders hold a use of it; ``seller_id`` None is the platform's own."""

    id: str
    code: str
    seller_id: str | None
    percent_bps: int | None
    amounts_minor: dict[str, int]
    minimum_minor: dict[str, int]
    sku_ids: list[str]
    uses_max: int | None
    uses_per_buyer_max: int | None
    valid_from: str
    valid_until: str | None
    ended: bool
    uses: int


class OrderLine(QuotedLine):
    """One line of an order."""

    licence_id: str | None
    delivery_id: str | None


class Payment(TypedDict):
    """How an order is paid; ``client_secret`` and ``checkout_url`` only while it waits for payment."""

    method: str
    provider: str
    payment_intent_id: str | None
    checkout_session_id: str | None
    client_secret: str | None
    checkout_url: str | None
    publishable_key: str
    error: dict[str, str] | None


class DeliveryWish(TypedDict):
    """How the buyer wants it sealed."""

    mode: str
    recipient: str | None


class End(TypedDict):
    """Why an order ended without delivery."""

    code: str
    reason: str | None


class Order(TypedDict):
    """An order."""

    id: str
    status: str
    buyer_id: str
    currency: str
    discount_minor: int
    tax_minor: int
    total_minor: int
    lines: list[OrderLine]
    delivery: DeliveryWish
    country: str | None
    payment: Payment
    end: End | None
    created_at: str
    updated_at: str
    seq: int


class OrderEvent(TypedDict, total=False):
    """One thing that happened to an order; further public data may follow."""

    order_id: str
    seq: int
    kind: str
    at: str
    status: str


class PayloadLink(TypedDict):
    """A link to the encrypted payload, valid until ``expires_at``."""

    url: str
    expires_at: str
    bytes: int
    sha256: str


class LicenceText(TypedDict):
    """A licence as issued."""

    id: str
    armoured: str
    envelope: dict[str, Any]


class KeyRelease(TypedDict):
    """State of a released-key delivery's key."""

    expires_at: str
    released: bool


class Delivery(TypedDict):
    """One line's delivery."""

    id: str
    line_no: int
    release_id: str
    licence_id: str
    mode: str
    recipient: str
    file_name: str
    header_base64: str
    manifest: dict[str, Any]
    payload: PayloadLink
    licence: LicenceText
    key_release: KeyRelease | None


class ReleasedKey(TypedDict):
    """The age identity of a released-key delivery: a secret."""

    delivery_id: str
    identity: str
    expires_at: str


class SignedKeyList(TypedDict):
    """A key list; only what its envelope says under a trusted root counts."""

    version: int
    issued_at: str
    expires_at: str
    signs: str | None
    root_public_key: str
    envelope: dict[str, Any]


class PlatformKey(TypedDict):
    """A platform signing key; ``public_key`` is base64, ``pem`` a SubjectPublicKeyInfo."""

    key_id: str
    public_key: str
    pem: str
    minisign: str
    algorithm: str
    state: str
    not_before: str
    compromised_at: str | None
    log: NotRequired[dict[str, Any] | None]  # older marketplaces have none


class SellerKeyRecord(TypedDict):
    """A seller's registered public key."""

    key_id: str
    seller_id: str
    state: str


class IssuedToken(TypedDict):
    """A new bearer token; None when the request was a repetition."""

    token: str | None
    role: str
    principal_id: str


class LicenceReport(TypedDict):
    """The server's findings on a licence."""

    valid: bool
    signature: dict[str, Any]
    key: dict[str, Any]
    expiry: dict[str, Any]
    revocation: dict[str, Any]
    ownership: dict[str, Any]
    licence: dict[str, Any] | None
