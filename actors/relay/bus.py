"""The default bus: hands records to the consumers of this process, whose progress is in Postgres.

Every consumer sees every record, one consumer after the other. A record is acknowledged when all have taken
it; a consumer that had already taken it drops it when it comes again for another one's sake. So consumers
here must need nothing but Postgres: one that waits for something else would hold all of them up.
"""

from collections.abc import Sequence
from typing import Protocol

from domain.events.errors import GapError
from domain.events.ports import EventRecord


class TakesRecords(Protocol):
    """A consumer, whatever its transactions are."""

    async def consume(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        """Take records; return per record None, or why it was not taken."""


class PostgresBus:
    """See ``domain.events.ports.Bus`` for the contract."""

    def __init__(self, consumers: Sequence[TakesRecords]) -> None:
        self._consumers = consumers

    async def publish(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        """Offer the records to every consumer; never raises for one consumer's sake."""
        outcomes: list[Exception | None] = [None] * len(records)
        for consumer in self._consumers:
            try:
                answers = await consumer.consume(records)
            except Exception as failure:  # noqa: BLE001 - one consumer's bug must not stop the others
                answers = [failure] * len(records)
            for index, answer in enumerate(answers):
                if answer is not None:
                    outcomes[index] = _more_telling(outcomes[index], answer)
        return outcomes


def _more_telling(one: Exception | None, other: Exception) -> Exception:
    """Of two refusals, prefer the one that says from where to send again, and the earlier such place."""
    if not isinstance(other, GapError):
        return one or other
    return one if isinstance(one, GapError) and one.expected_seq <= other.expected_seq else other
