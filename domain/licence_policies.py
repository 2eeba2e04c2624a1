"""How long a licence lasts: the policy that a seller offers and the one that a licence carries.

Both are tagged objects. Readers refuse kinds that they do not know, so that a later kind (seats bound to
machines, say) is never mistaken for an unlimited licence by an older reader.

    offered in a release manifest          carried by a licence
    {"kind": "perpetual"}                  {"kind": "perpetual"}
    {"kind": "timed", "days": 365}         {"kind": "timed", "expires_at": "2027-11-24T09:30:00Z"}
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from domain.document_fields import closed_object, format_time, integer_field, time_field
from domain.strict_json import DocumentError

DAYS_MAX = 3_660  # ten years; whoever means longer means perpetual
_KIND = frozenset({"kind"})


@dataclass(frozen=True, slots=True)
class OfferedPolicy:
    """What a release is sold under; ``days`` is None for a perpetual licence."""

    days: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the tagged object of a release manifest."""
        return {"kind": "perpetual"} if self.days is None else {"kind": "timed", "days": self.days}

    @classmethod
    def from_json(cls, value: Any) -> "OfferedPolicy":
        """Read the tagged object.

        Raises:
            DocumentError: ``licence_policy_unknown`` and the codes of ``domain.document_fields``.
        """
        match _kind(value):
            case "perpetual":
                closed_object(value, "licence_policy", _KIND)
                return cls()
            case "timed":
                members = closed_object(value, "licence_policy", _KIND | {"days"})
                return cls(integer_field(members, "days", 1, DAYS_MAX))
        raise _unknown()

    def granted(self, issued_at: datetime) -> "LicencePolicy":
        """Return the policy of a licence issued at this time; a day is 24 hours."""
        return LicencePolicy(None if self.days is None else issued_at + timedelta(days=self.days))


@dataclass(frozen=True, slots=True)
class LicencePolicy:
    """What a licence grants; ``expires_at`` (UTC, exclusive) is None for a perpetual licence."""

    expires_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the tagged object of a licence."""
        if self.expires_at is None:
            return {"kind": "perpetual"}
        return {"kind": "timed", "expires_at": format_time(self.expires_at)}

    @classmethod
    def from_json(cls, value: Any) -> "LicencePolicy":
        """Read the tagged object.

        Raises:
            DocumentError: ``licence_policy_unknown`` and the codes of ``domain.document_fields``.
        """
        match _kind(value):
            case "perpetual":
                closed_object(value, "policy", _KIND)
                return cls()
            case "timed":
                members = closed_object(value, "policy", _KIND | {"expires_at"})
                return cls(time_field(members, "expires_at"))
        raise _unknown()


def _kind(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else None


def _unknown() -> DocumentError:
    return DocumentError("licence_policy_unknown", "The licence policy is of a kind not known here.")
