"""How long a licence lasts and how it is used: what a seller offers, and what a licence carries.

Both are tagged objects. Readers refuse kinds and members that they do not know, so that a later restriction
is never mistaken for an unlimited licence by an older reader.

    offered in a release manifest            carried by a licence
    {"kind": "perpetual"}                    {"kind": "perpetual"}
    {"kind": "timed", "days": 365}           {"kind": "timed", "expires_at": "2027-11-24T09:30:00Z"}
    {"kind": "seats"}                        {"kind": "seats"}
    {"kind": "floating", "days": 30}         {"kind": "floating", "expires_at": "2027-11-24T09:30:00Z"}

``seats`` and ``floating`` work with a valid activation only (``domain.activations``), and last for ever
unless they have ``days``. Every policy with an end may have ``starts_at``, when it renews another licence.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from domain.document_fields import closed_object, format_time, integer_field, time_field
from domain.strict_json import DocumentError

DAYS_MAX = 3_660  # ten years; whoever means longer means perpetual
SEATS, FLOATING = "seats", "floating"
ACTIVATED_KINDS = (SEATS, FLOATING)
_KIND = frozenset({"kind"})


@dataclass(frozen=True, slots=True)
class OfferedPolicy:
    """What a release is sold under.

    ``days`` is None for a licence without end; ``activation`` is ``seats``, ``floating`` or None (no need).
    """

    days: int | None = None
    activation: str | None = None

    @property
    def kind(self) -> str:
        """The tag."""
        return _tag(self.activation, timed=self.days is not None)

    def as_json(self) -> dict[str, Any]:
        """Give the tagged object of a release manifest."""
        return {"kind": self.kind} | ({} if self.days is None else {"days": self.days})

    @classmethod
    def from_json(cls, value: Any) -> "OfferedPolicy":
        """Read the tagged object.

        Raises:
            DocumentError: ``licence_policy_unknown`` and the codes of ``domain.document_fields``.
        """
        kind = _kind(value)
        required, optional = _members(kind, "days", frozenset())
        members = closed_object(value, "licence_policy", required, optional)
        days = integer_field(members, "days", 1, DAYS_MAX) if "days" in members else None
        return cls(days, kind if kind in ACTIVATED_KINDS else None)

    def granted(self, issued_at: datetime) -> "LicencePolicy":
        """Return the policy of a licence issued at this time; a day is 24 hours."""
        expires_at = None if self.days is None else issued_at + timedelta(days=self.days)
        return LicencePolicy(expires_at, activation=self.activation)


@dataclass(frozen=True, slots=True)
class LicencePolicy:
    """What a licence grants; times are UTC.

    ``expires_at`` (exclusive) is None for a licence without end, ``starts_at`` for one that counts from its
    issue. ``activation`` is as in ``OfferedPolicy``.
    """

    expires_at: datetime | None = None
    starts_at: datetime | None = None
    activation: str | None = None

    @property
    def kind(self) -> str:
        """The tag."""
        return _tag(self.activation, timed=self.expires_at is not None)

    def as_json(self) -> dict[str, Any]:
        """Give the tagged object of a licence."""
        times = {"starts_at": self.starts_at, "expires_at": self.expires_at}
        return {"kind": self.kind} | {
            name: format_time(one) for name, one in times.items() if one is not None
        }

    @classmethod
    def from_json(cls, value: Any) -> "LicencePolicy":
        """Read the tagged object.

        Raises:
            DocumentError: ``licence_policy_unknown`` and the codes of ``domain.document_fields``.
        """
        kind = _kind(value)
        required, optional = _members(kind, "expires_at", frozenset({"starts_at"}))
        members = closed_object(value, "policy", required, optional)
        expires_at = time_field(members, "expires_at") if "expires_at" in members else None
        starts_at = time_field(members, "starts_at") if "starts_at" in members else None
        if starts_at is not None and (expires_at is None or starts_at >= expires_at):
            raise DocumentError("field_invalid", "starts_at must be before expires_at.")
        return cls(expires_at, starts_at, kind if kind in ACTIVATED_KINDS else None)


def _tag(activation: str | None, *, timed: bool) -> str:
    return activation or ("timed" if timed else "perpetual")


def _kind(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else None


def _members(kind: Any, end: str, with_end: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the required and the optional members of a kind; ``end`` names the one that bounds it."""
    match kind:
        case "perpetual":
            return _KIND, frozenset()
        case "timed":
            return _KIND | {end}, with_end
        case "seats" | "floating":
            return _KIND, with_end | {end}
    raise DocumentError("licence_policy_unknown", "The licence policy is of a kind not known here.")
