"""The governed documents: what may change money, one versioned JSON document per kind.

Each kind is one frozen dataclass with ``from_json`` and ``as_json``; its canonical bytes (RFC 8785, a subset)
are what proposals hash. Decides which documents are sound by themselves. Refused: members that are not known,
fractions, splits that do not sum to the whole, and operators who could lock themselves out. Whether a public
key is a sound point is asked of the caller, because this package knows no cryptography.

Basis points are hundredths of a per cent; amounts are minor units by ISO 4217 currency.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from domain import canonical_json
from domain.dsse import decode_base64
from domain.ids import is_id
from domain.licence_policies import DAYS_MAX
from domain.money import BASIS_POINTS, CURRENCY_DECIMALS
from domain.proposals import fields
from domain.signing import PUBLIC_KEY_BYTES, key_id_of
from domain.strict_json import DocumentError, loads

DOCUMENT_BYTES_MAX = 65_536  # some five hundred SKUs with a split of their own; a page of the diff otherwise
HOLDBACK_DAYS_MAX = (
    180  # card networks take disputes for 120 days; a little more is prudence, years are theft
)
AUTHORISATION_S_MIN = 3_600  # a review takes people
AUTHORISATION_S_MAX = 604_800  # card authorisations lapse after seven days (Stripe: "Place a hold")
REFUND_WINDOW_S_MAX = 15_552_000  # 180 days: Stripe cannot return older payments on every method
GRACE_DAYS_MAX = 90
PAYEES_MAX = 20  # payees of one split; more is a company, which is one payee
SKUS_MAX = 500  # SKUs with a split of their own, within the document's bytes
OPERATORS_MIN, OPERATORS_MAX = (
    2,
    32,
)  # one proposes, another approves; half of what DSSE verification is bound to
PERCENT_MAX = 100
SELLER = "seller"  # the payee that stands for whoever sells the SKU
CAPTURES = ("automatic", "manual_when_flagged")
POLICIES = ("perpetual", "timed", "seats", "floating")
FIRST_POLICIES = ("perpetual", "timed")  # what could be offered before the others were known
_PAYEE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,99}")  # a part of an account's name at Finance
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")


class Kind(StrEnum):
    """What is governed."""

    PRICE_MODEL = "price_model"
    PLATFORM_FEES = "platform_fees"
    ROYALTY_SPLITS = "royalty_splits"
    LICENCE_MODEL = "licence_model"
    PAYMENT_FLOW = "payment_flow"
    OPERATORS = "operators"


@dataclass(frozen=True, slots=True)
class PriceModel:
    """Currencies that may be sold in, and the largest discount in per cent."""

    currencies: tuple[str, ...]
    discount_percent_max: int

    @classmethod
    def from_json(cls, value: Any) -> "PriceModel":
        """Read the document; raises GovernedDocumentError."""
        found = fields.members(value, "", ("currencies", "discount_percent_max"))
        currencies = fields.items(
            found["currencies"], "/currencies", 1, len(CURRENCY_DECIMALS), fields.currency
        )
        fields.distinct(currencies, "/currencies", "currency")
        percent = fields.integer(found["discount_percent_max"], "/discount_percent_max", 0, PERCENT_MAX)
        return cls(currencies, percent)

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return {"currencies": list(self.currencies), "discount_percent_max": self.discount_percent_max}


@dataclass(frozen=True, slots=True)
class PlatformFees:
    """What the platform keeps of a line, and what it holds back of a payout, for how many days."""

    fee_bps: int
    fee_fixed_minor: Mapping[str, int]
    holdback_bps: int
    holdback_days: int
    payout_minimum_minor: Mapping[str, int]

    @classmethod
    def from_json(cls, value: Any) -> "PlatformFees":
        """Read the document; raises GovernedDocumentError."""
        names = ("fee_bps", "fee_fixed_minor", "holdback_bps", "holdback_days", "payout_minimum_minor")
        found = fields.members(value, "", names)
        return cls(
            fields.basis_points(found["fee_bps"], "/fee_bps"),
            fields.amounts(found["fee_fixed_minor"], "/fee_fixed_minor"),
            fields.basis_points(found["holdback_bps"], "/holdback_bps"),
            fields.integer(found["holdback_days"], "/holdback_days", 0, HOLDBACK_DAYS_MAX),
            fields.amounts(found["payout_minimum_minor"], "/payout_minimum_minor"),
        )

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Share:
    """One payee's part of what sellers earn; ``seller`` is whoever sells the SKU."""

    payee: str
    bps: int


@dataclass(frozen=True, slots=True)
class RoyaltySplits:
    """Who shares a line's proceeds: ``skus`` by SKU id, ``default`` for every other. Each sums to 10,000."""

    default: tuple[Share, ...]
    skus: Mapping[str, tuple[Share, ...]]

    @classmethod
    def from_json(cls, value: Any) -> "RoyaltySplits":
        """Read the document; raises GovernedDocumentError."""
        found = fields.members(value, "", ("default", "skus"))
        by_sku = fields.mapping(found["skus"], "/skus")
        if len(by_sku) > SKUS_MAX:
            raise fields.wrong("/skus", f"Give at most {SKUS_MAX} SKUs.")
        for sku_id in by_sku:
            if not is_id("sku", sku_id):
                raise fields.wrong(fields.below("/skus", sku_id), "This is not the id of a SKU.")
        return cls(
            _split(found["default"], "/default"),
            {sku_id: _split(by_sku[sku_id], fields.below("/skus", sku_id)) for sku_id in sorted(by_sku)},
        )

    def of(self, sku_id: str) -> tuple[Share, ...]:
        """Return the split of a SKU."""
        return self.skus.get(sku_id, self.default)

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return {
            "default": [asdict(share) for share in self.default],
            "skus": {sku_id: [asdict(share) for share in split] for sku_id, split in self.skus.items()},
        }


@dataclass(frozen=True, slots=True)
class LicenceModel:
    """Policies that may be offered, the longest one with an end, and days that such a one works after it.

    ``transfers_forbidden`` is written only where it is true: documents from before it mean that transfers
    are allowed, and their hashes stay as they were signed.
    """

    policies: tuple[str, ...]
    timed_days_max: int
    grace_days: int
    transfers_forbidden: bool = False

    @classmethod
    def from_json(cls, value: Any) -> "LicenceModel":
        """Read the document; raises GovernedDocumentError."""
        names = ("policies", "timed_days_max", "grace_days")
        forbidden = isinstance(value, dict) and "transfers_forbidden" in value
        found = fields.members(value, "", (*names, "transfers_forbidden") if forbidden else names)
        if forbidden and found["transfers_forbidden"] is not True:
            raise fields.wrong("/transfers_forbidden", "Give true, or leave it out to allow them.")
        policies = fields.items(found["policies"], "/policies", 1, len(POLICIES), _policy)
        fields.distinct(policies, "/policies", "policy")
        return cls(
            policies,
            fields.integer(found["timed_days_max"], "/timed_days_max", 1, DAYS_MAX),
            fields.integer(found["grace_days"], "/grace_days", 0, GRACE_DAYS_MAX),
            forbidden,
        )

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return {
            "policies": list(self.policies),
            "timed_days_max": self.timed_days_max,
            "grace_days": self.grace_days,
        } | ({"transfers_forbidden": True} if self.transfers_forbidden else {})


@dataclass(frozen=True, slots=True)
class PaymentFlow:
    """How payments are taken: capture, how long a flagged one may wait, refunds, and whether at all."""

    capture: str
    authorisation_deadline_s: int
    refund_window_s: int
    checkout_allowed: bool

    @classmethod
    def from_json(cls, value: Any) -> "PaymentFlow":
        """Read the document; raises GovernedDocumentError."""
        names = ("capture", "authorisation_deadline_s", "refund_window_s", "checkout_allowed")
        found = fields.members(value, "", names)
        return cls(
            fields.choice(found["capture"], "/capture", CAPTURES),
            fields.integer(
                found["authorisation_deadline_s"],
                "/authorisation_deadline_s",
                AUTHORISATION_S_MIN,
                AUTHORISATION_S_MAX,
            ),
            fields.integer(found["refund_window_s"], "/refund_window_s", 0, REFUND_WINDOW_S_MAX),
            fields.boolean(found["checkout_allowed"], "/checkout_allowed"),
        )

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Operator:
    """Who holds an approval key; names are for people, the key decides."""

    name: str
    public_key: bytes
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_id", key_id_of(self.public_key))


@dataclass(frozen=True, slots=True)
class Operators:
    """The operators' keys, and how many of them besides the proposer must approve."""

    operators: tuple[Operator, ...]
    threshold: int

    @classmethod
    def from_json(cls, value: Any) -> "Operators":
        """Read the document; raises GovernedDocumentError."""
        found = fields.members(value, "", ("operators", "threshold"))
        operators = fields.items(found["operators"], "/operators", OPERATORS_MIN, OPERATORS_MAX, _operator)
        fields.distinct(tuple(one.name for one in operators), "/operators", "operator")
        fields.distinct(tuple(one.public_key for one in operators), "/operators", "key")
        # The proposer is not counted: with more than n - 1 nothing could ever be approved again.
        threshold = fields.integer(found["threshold"], "/threshold", 1, len(operators) - 1)
        return cls(operators, threshold)

    @property
    def keys(self) -> dict[str, bytes]:
        """Public keys by key id."""
        return {one.key_id: one.public_key for one in self.operators}

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return {
            "operators": [
                {"name": one.name, "public_key": base64.b64encode(one.public_key).decode()}
                for one in self.operators
            ],
            "threshold": self.threshold,
        }


Document = PriceModel | PlatformFees | RoyaltySplits | LicenceModel | PaymentFlow | Operators
_READERS: dict[Kind, Callable[[Any], Document]] = {
    Kind.PRICE_MODEL: PriceModel.from_json,
    Kind.PLATFORM_FEES: PlatformFees.from_json,
    Kind.ROYALTY_SPLITS: RoyaltySplits.from_json,
    Kind.LICENCE_MODEL: LicenceModel.from_json,
    Kind.PAYMENT_FLOW: PaymentFlow.from_json,
    Kind.OPERATORS: Operators.from_json,
}

# The first versions say what the marketplace does anyway, so that adopting the gate changes nothing.
# Operators have none: their first keys are somebody's, and are put in by hand.
GENESIS: dict[Kind, Document] = {
    Kind.PRICE_MODEL: PriceModel(tuple(sorted(CURRENCY_DECIMALS)), PERCENT_MAX),
    Kind.PLATFORM_FEES: PlatformFees(1_000, {}, 0, 0, {}),
    Kind.ROYALTY_SPLITS: RoyaltySplits((Share(SELLER, BASIS_POINTS),), {}),
    Kind.LICENCE_MODEL: LicenceModel(FIRST_POLICIES, DAYS_MAX, 0),
    Kind.PAYMENT_FLOW: PaymentFlow("manual_when_flagged", 432_000, 2_592_000, True),  # noqa: FBT003 - in the fields' order
}


def parse(kind: Kind, value: Any) -> Document:
    """Read a document of this kind.

    Raises:
        GovernedDocumentError: ``proposal_document_invalid``, with a JSON pointer.
    """
    document = _READERS[kind](value)
    if len(canonical(document)) > DOCUMENT_BYTES_MAX:
        raise fields.wrong("", f"The document may take {DOCUMENT_BYTES_MAX} bytes.")
    return document


def parse_text(kind: Kind, text: str) -> Document:
    """Read a stored document, which must be in canonical form.

    Raises:
        GovernedDocumentError: ``proposal_document_invalid``.
    """
    try:
        document = parse(kind, loads(text, max_bytes=DOCUMENT_BYTES_MAX))
    except DocumentError as error:
        raise fields.wrong("", error.detail) from error
    if canonical(document) != text.encode():
        raise fields.wrong("", "The text is not in canonical form.")
    return document


def require_sound_keys(document: Document, is_sound: Callable[[bytes], bool]) -> None:
    """Refuse operators' keys that are no canonical points of the main subgroup.

    Raises:
        GovernedDocumentError: ``proposal_document_invalid``.
    """
    if isinstance(document, Operators):
        for index, one in enumerate(document.operators):
            if not is_sound(one.public_key):
                raise fields.wrong(f"/operators/{index}/public_key", "This is not a sound Ed25519 key.")


def canonical(document: Document) -> bytes:
    """Return the bytes that are hashed."""
    return canonical_json.dumps(document.as_json())


def sha256(canonical_bytes: bytes) -> str:
    """Return a document's hash, in lower-case hexadecimal."""
    return hashlib.sha256(canonical_bytes).hexdigest()


def _split(value: Any, pointer: str) -> tuple[Share, ...]:
    shares = fields.items(value, pointer, 1, PAYEES_MAX, _share)
    fields.distinct(tuple(share.payee for share in shares), pointer, "payee")
    if (total := sum(share.bps for share in shares)) != BASIS_POINTS:
        raise fields.wrong(pointer, f"The shares sum to {total} basis points, not to {BASIS_POINTS}.")
    return shares


def _share(value: Any, pointer: str) -> Share:
    found = fields.members(value, pointer, ("payee", "bps"))
    payee = found["payee"]
    if type(payee) is not str or not _PAYEE.fullmatch(payee):
        raise fields.wrong(fields.below(pointer, "payee"), "Give 1 to 100 letters, digits and _.")
    return Share(
        payee,
        fields.basis_points(found["bps"], fields.below(pointer, "bps"), 1),
    )


def _policy(value: Any, pointer: str) -> str:
    return fields.choice(value, pointer, POLICIES)


def _operator(value: Any, pointer: str) -> Operator:
    found = fields.members(value, pointer, ("name", "public_key"))
    place = fields.below(pointer, "public_key")
    try:
        public_key = decode_base64(found["public_key"], "public_key")
    except DocumentError as error:
        raise fields.wrong(place, error.detail) from error
    if len(public_key) != PUBLIC_KEY_BYTES or base64.b64encode(public_key).decode() != found["public_key"]:
        raise fields.wrong(place, f"Give {PUBLIC_KEY_BYTES} bytes in standard base64.")
    return Operator(_name(found["name"], fields.below(pointer, "name")), public_key)


def _name(value: Any, pointer: str) -> str:
    if type(value) is not str or not _NAME.fullmatch(value):
        raise fields.wrong(
            pointer, "Give 1 to 100 letters, digits and _ . @ -, starting with a letter or digit."
        )
    return value
