"""What all bodies share: closed objects, strict types, RFC 3339 times in UTC."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """A body that callers send: unknown members are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Document(BaseModel):
    """A body that we answer; every member is always present."""

    model_config = ConfigDict(extra="forbid")


def rfc3339(moment: datetime) -> str:
    """Write an aware time in UTC, such as ``2026-11-24T09:30:00.123456Z``."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
