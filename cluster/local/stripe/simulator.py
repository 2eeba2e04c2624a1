"""The parts of one simulator, wired together, and what it does without being asked.

Housekeeping runs once a second: expires Checkout Sessions and authorisations, settles payments and refunds
that were waiting, decides disputes, follows the balance, folds the write-ahead log into the database, and
removes what is too old.
"""

import asyncio
import hashlib
import logging
import time
from dataclasses import asdict

import orjson

from cluster.local.stripe import charging, checkout_sessions, disputes, kinds, refunds, webhook_endpoints
from cluster.local.stripe.balance import Balances
from cluster.local.stripe.deliveries import DeliveryRecord
from cluster.local.stripe.dials import Dials, stored_dials
from cluster.local.stripe.faults import Faults
from cluster.local.stripe.idempotency import IdempotencyKeys
from cluster.local.stripe.operations import Operations
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.rows import IdempotencyRecord
from cluster.local.stripe.settings import Settings
from cluster.local.stripe.store import Store, StoreFailedError
from cluster.local.stripe.turn import IdSource, Turn
from cluster.local.stripe.webhook_endpoints import Registry, environment_endpoint
from cluster.local.stripe.webhooks import WebhookSender

DATABASE = "stripe.sqlite3"
CURRENT_DIALS = "dials_current"
HOUSEKEEPING_S = 1.0
DUE_BATCH = 200  # objects that one round looks after
PRUNE_EVERY_ROUNDS = 60
TOKEN_BYTES = 16

LOG = logging.getLogger(__name__)


class Simulator:
    """One per process; ``start`` and ``stop`` frame its life on an event loop."""

    def __init__(self, settings: Settings) -> None:
        self.base_url = settings.public_url
        self.ids = IdSource()
        self._token_key = hashlib.blake2b(settings.secret_key.encode()).digest()
        environment = None
        if settings.webhook_url is not None:
            environment = environment_endpoint(
                settings.webhook_url, settings.webhook_secret, settings.webhook_events
            )
        self.store = Store(settings.data_dir / DATABASE)
        self.registry = Registry(environment)
        self.registry.refresh(self.store.all_of(webhook_endpoints.KIND))
        self.deliveries = DeliveryRecord(self.store)
        self.faults = Faults()
        self.webhooks = WebhookSender(self.deliveries, self.registry, self.faults)
        self.store.on_commit = self.webhooks.offer
        self.balances = Balances(self.store)
        self.operations = Operations(self.registry, self.deliveries, self.balances)
        self.idempotency = IdempotencyKeys(self.store, settings.secret_key.encode())
        record = self.store.load(kinds.DIALS, CURRENT_DIALS)
        self.dials = stored_dials(orjson.loads(record) if record is not None else None)
        self._housekeeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver and to keep house."""
        self.webhooks.start()
        self._housekeeper = asyncio.create_task(self._keep_house())

    async def stop(self) -> None:
        """Stop, with everything committed."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
        await self.webhooks.stop()
        self.store.close()

    def turn(self, now_ms: int, request_id: str | None, idempotency_key: str | None) -> Turn:
        """Begin a turn at ``now_ms`` (Unix milliseconds)."""
        return Turn(
            self.store,
            now_ms,
            self.base_url,
            self.registry.subscribers,
            self.page_token,
            self.ids,
            request_id,
            idempotency_key,
            self.dials,
        )

    async def turn_dials(self, now_ms: int, dials: Dials) -> Document:
        """Store new dials and go by them; return them.

        Raises:
            StoreFailedError: they are as they were.
        """
        turn = self.turn(now_ms, None, None)
        shown = asdict(dials)
        turn.put(kinds.DIALS, {"id": CURRENT_DIALS, "created": turn.now, **shown})
        await self.commit(turn, None)
        self.dials = dials
        return shown

    def page_token(self, subject: str) -> str:
        """Return what makes a page's address unguessable for ``subject``."""
        return hashlib.blake2b(subject.encode(), digest_size=TOKEN_BYTES, key=self._token_key).hexdigest()

    async def commit(self, turn: Turn, record: IdempotencyRecord | None) -> None:
        """Make a turn and its answer safe, and everything that the turn has read.

        Raises:
            StoreFailedError: nothing was kept.
        """
        self._write(turn, record)
        await self.store.settled()
        if turn.removed or any(stored.kind == webhook_endpoints.KIND for stored in turn.changed.values()):
            self.registry.refresh(self.store.all_of(webhook_endpoints.KIND))

    def _write(self, turn: Turn, record: IdempotencyRecord | None) -> None:
        if turn.changed or turn.events or turn.removed or record is not None:
            self.store.write(turn, record)

    async def _keep_house(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            rounds += 1
            try:
                now_ms = time.time_ns() // 1_000_000
                self.look_after_due(now_ms)
                if rounds % PRUNE_EVERY_ROUNDS == 0:
                    self.store.prune(now_ms // 1_000)
                self.balances.follow()
                await self.store.checkpoint()
            except (StoreFailedError, OSError) as error:
                LOG.warning("housekeeping failed (%s); trying again", error)

    def look_after_due(self, now_ms: int) -> None:
        """Do what was due by ``now_ms``.

        Raises:
            StoreFailedError: nothing of the last turn was kept.
        """
        for object_id in self.store.due_objects(now_ms // 1_000, DUE_BATCH):
            turn = self.turn(now_ms, None, None)
            try:
                _come_due(turn, object_id)
            except RefusedError as refused:
                LOG.warning("%s was due and refused: %s", object_id, refused)
                continue
            self._write(turn, None)


def _come_due(turn: Turn, object_id: str) -> None:
    """Do what an object's time asks for.

    Raises:
        RefusedError: the object's state does not allow it.
    """
    if kinds.is_kind(kinds.CHECKOUT_SESSION, object_id):
        checkout_sessions.close_due(turn, object_id)
    elif kinds.is_kind(kinds.REFUND, object_id):
        refunds.come_due(turn, object_id)
    elif kinds.is_kind(kinds.DISPUTE, object_id):
        disputes.come_due(turn, object_id)
    else:
        charging.come_due(turn, object_id)
        checkout_sessions.follow(turn, object_id)
