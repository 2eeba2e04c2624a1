"""A process's way to Postgres: the ports over the network, with the errors that the real adapters raise.

Nothing is decided here. A call that fails raises ``database_unavailable``, after which nobody knows whether
the transaction happened, as with a connection lost inside COMMIT.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from cluster.simulation.loop import Process
from cluster.simulation.network import Network, Server
from cluster.simulation.postgres import Postgres
from domain.errors import DependencyError, NotFoundError, RejectedError
from domain.fulfilment import ReleaseMaterial
from domain.orders.ports import DueEffect, Idempotency, PaymentNews, RecordedCommand, StoredOrder, Turn
from storage.market.fulfilment import FulfilmentReads, WrappedIdentity

T = TypeVar("T")
ANSWER_TIMEOUT_S = 8.0  # as storage.market.pool


class DatabaseConnection:
    """One process's connections to Postgres."""

    def __init__(self, network: Network, process: Process, server: Server, database: Postgres) -> None:
        self._network = network
        self.process = process
        self._server = server
        self.database = database

    def note(self, what: str, subject: str) -> None:
        """Write a line of the timeline."""
        self._network.note(self.process.name, what, subject)

    async def run(self, statement: str, subject: str, execute: Callable[[], T]) -> T:
        """Run one statement; raises ``DependencyError('database_unavailable')``."""
        return await self._network.call(
            self.process,
            self._server,
            f"postgres.{statement}",
            subject,
            execute,
            _unavailable,
            ANSWER_TIMEOUT_S,
        )


class SimulatedOrderStore:
    """``OrderStore`` over the network."""

    def __init__(self, connection: DatabaseConnection) -> None:
        self.connection = connection
        self._run = connection.run
        self._database = connection.database

    async def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        """See the port."""
        return await self._run("place", turn.order.order_id, lambda: self._database.place(turn, idempotency))

    async def commit(self, turn: Turn) -> bool:
        """See the port."""
        return await self._run("commit", turn.order.order_id, lambda: self._commit(turn))

    async def load(self, order_id: str) -> StoredOrder | None:
        """See the port."""
        return await self._run("load", order_id, lambda: self._database.load(order_id))

    async def find_command(self, principal_id: str, key: str) -> RecordedCommand | None:
        """See the port."""
        return await self._run("find_command", "", lambda: self._database.find_command(principal_id, key))

    async def claim_due_effects(
        self, steps: Sequence[str], limit: int, lease_s: float
    ) -> Sequence[DueEffect]:
        """See the port."""
        return await self._run("claim_due_effects", "", lambda: self._claim_effects(steps, limit, lease_s))

    async def order_of_payment(self, payment_intent_id: str) -> str | None:
        """See the adapter."""
        return await self._run(
            "order_of_payment", "", lambda: self._database.order_of_payment(payment_intent_id)
        )

    async def defer_effect(
        self, order_id: str, step: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """See the port."""
        await self._run(
            "defer_effect",
            order_id,
            lambda: self._database.defer_effect(order_id, step, delay_s, error, unforeseen=unforeseen),
        )

    async def bury_effect(self, order_id: str, step: str, code: str, error: str) -> None:
        """See the port."""
        await self._run(
            "bury_effect", order_id, lambda: self._database.bury_effect(order_id, step, code, error)
        )

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """See the port."""
        return await self._run("store_webhook", news.order_id, lambda: self._database.store_webhook(news))

    async def claim_due_webhooks(self, limit: int, lease_s: float) -> Sequence[PaymentNews]:
        """See the port."""
        return await self._run("claim_due_webhooks", "", lambda: self._claim_webhooks(limit, lease_s))

    async def settle_webhook(self, news: PaymentNews, outcome: str) -> None:
        """See the port."""
        await self._run("settle_webhook", news.order_id, lambda: self._database.settle_webhook(news, outcome))

    async def defer_webhook(
        self, event_id: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """See the port."""
        await self._run(
            "defer_webhook",
            "",
            lambda: self._database.defer_webhook(event_id, delay_s, error, unforeseen=unforeseen),
        )

    async def bury_webhook(self, news: PaymentNews, code: str, error: str) -> None:
        """See the port."""
        await self._run("bury_webhook", news.order_id, lambda: self._database.bury_webhook(news, code, error))

    def _commit(self, turn: Turn) -> bool:
        committed = self._database.commit(turn)
        kinds = ", ".join(type(event).__name__ for event in turn.events)
        what = "commits" if committed else "is fenced off with"
        self.connection.note(f"{what} {kinds} on event {turn.fence}", turn.order.order_id)
        return committed

    def _claim_effects(self, steps: Sequence[str], limit: int, lease_s: float) -> list[DueEffect]:
        claimed = self._database.claim_due_effects(steps, limit, lease_s)
        for effect in claimed:
            self.connection.note(f"claims {effect.step}, attempt {effect.attempts}", effect.order_id)
        return claimed

    def _claim_webhooks(self, limit: int, lease_s: float) -> list[PaymentNews]:
        claimed = self._database.claim_due_webhooks(limit, lease_s)
        for news in claimed:
            self.connection.note(f"claims {news.event_id}, attempt {news.attempts}", news.order_id)
        return claimed


class SimulatedReads(FulfilmentReads):
    """What fulfilment reads. Every release exists; the real class's cache and queries are not used."""

    def __init__(self, connection: DatabaseConnection) -> None:  # not super's: there is no pool
        self._run = connection.run
        self._database = connection.database

    async def material(self, release_id: str) -> ReleaseMaterial:
        """See the real one."""
        return await self._run("release_material", "", lambda: _material(release_id))

    async def wrapped_identity(self, order_id: str, delivery_id: str) -> WrappedIdentity:
        """See the real one."""
        return await self._run("wrapped_identity", order_id, lambda: self._wrapped(order_id, delivery_id))

    def _wrapped(self, order_id: str, delivery_id: str) -> WrappedIdentity:
        row = self._database.deliveries.get(delivery_id)
        if row is None or row.order_id != order_id or row.key_expires_at is None:
            raise NotFoundError("delivery_not_found", "This order has no such released-key delivery.")
        if row.wrapped_identity is None or row.key_expires_at <= self._database.clock():
            raise RejectedError("delivery_key_expired", "The time to ask for this key is over.")
        return WrappedIdentity(row.wrapped_identity, row.key_expires_at)


def _material(release_id: str) -> ReleaseMaterial:
    digest = "ab" * 32
    return ReleaseMaterial(release_id, "bundle.tar.gz", digest, 1_000, digest, 1_100, b"wrapped")


def _unavailable(why: str) -> DependencyError:
    return DependencyError("database_unavailable", f"The database did not answer: {why}.", 2)
