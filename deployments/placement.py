"""Placement: how actors are reached. The only module that holds Ray's untyped handles.

Where hosts are apart, an order's calls go to the replica that consistent hashing names, so its grain is
usually warm; a wrong guess costs one read and never correctness (ADR 0001). Ray's failures become
``domain.errors`` here: whether a call that failed had run is unknown, and every method behind it is safe to
repeat.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from actors.orders.host import ActedOrder, EvidenceReply, PlacedOrder, RefundReply, ReleasedKey
from actors.publisher.sealing import LicensingDocument, Seal, SealRequest
from actors.signer.checkpoints import HeadClaim, LastSigned, SignedHead
from actors.signer.issuer import IssueRequest
from domain.errors import BusyError, DependencyError, MarketplaceError
from domain.events import shard_of
from domain.orders.commands import CancelOrder, DecideReview, PlaceOrder, PrepareEvidence, RequestRefund
from domain.orders.ports import Fulfilment, Idempotency, PaymentNews
from domain.revocations import RevocationList
from storage.batching import Batcher

CALL_DEADLINE_S = 9.0  # below the ingress's own deadline, so that the caller hears the better reason
SIGNER_DEADLINE_S = 5.0
PLACEMENT_GROUPS = 8  # orders are placed by group: few enough that calls meet, enough to spread over hosts
CALLS_MAX = 64  # per request: some 100 KB, far below gRPC's 4 MB
CALLS_WAITING_MAX = 1_024  # per group; beyond it callers are told to come back
REQUESTS_IN_FLIGHT_MAX = 4  # per group: a slow payment must not hold up the next request
PING_DEADLINE_S = 2.0
_GONE = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.TaskCancelledError,
    serve_errors.DeploymentUnavailableError,
    serve_errors.ReplicaUnavailableError,
)


async def _call(part: str, response: Any, deadline_s: float) -> Any:
    """Await a handle's response within a deadline and translate what can go wrong."""
    try:
        async with asyncio.timeout(deadline_s):
            return await response
    except ray_errors.RayTaskError as error:
        # First: Ray raises a class that is both, whose text is the remote traceback.
        # `cause` is the remote exception itself, unpickled; see domain.errors on why it survives.
        if isinstance(error.cause, MarketplaceError):
            raise error.cause from None
        raise
    except MarketplaceError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not we but the call was cancelled, with its replica.
        raise _unavailable(part) from None
    except serve_errors.BackPressureError as error:
        raise BusyError(f"{part}_busy", "Too many requests are waiting. Try again shortly.") from error
    except (*_GONE, TimeoutError) as error:
        raise _unavailable(part) from error


def _unavailable(part: str) -> DependencyError:
    return DependencyError(
        f"{part}_unavailable", "A part is being replaced; nothing is lost. Try again shortly."
    )


def _plain(handle: Any) -> Any:
    """Have a handle use C pickle: our arguments are plain data, and cloudpickle takes ten times as long."""
    return handle.options(request_serialization="pickle", response_serialization="pickle")


class SignerDirectory:
    """Reaches the signer's deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = _plain(handle)

    async def issue(self, requests: Sequence[IssueRequest]) -> Sequence[Fulfilment | Exception]:
        """See ``Issuer.issue``."""
        answers: Sequence[Fulfilment | Exception] = await _call(
            "signer", self._handle.issue.remote(list(requests)), SIGNER_DEADLINE_S
        )
        return answers

    async def unwrap_identity(self, delivery_id: str, wrapped: bytes) -> str:
        """See ``Issuer.unwrap_identity``."""
        identity: str = await _call(
            "signer", self._handle.unwrap_identity.remote(delivery_id, wrapped), SIGNER_DEADLINE_S
        )
        return identity

    async def seal_release(self, request: SealRequest) -> Seal:
        """See ``ReleaseSealer.seal_release``."""
        seal: Seal = await _call("signer", self._handle.seal_release.remote(request), SIGNER_DEADLINE_S)
        return seal

    async def sign_revocations(self, listed: RevocationList) -> str:
        """See ``ReleaseSealer.sign_revocations``."""
        envelope: str = await _call("signer", self._handle.sign_revocations.remote(listed), SIGNER_DEADLINE_S)
        return envelope

    async def sign_licensing(self, document: LicensingDocument) -> str:
        """See ``ReleaseSealer.sign_licensing``."""
        envelope: str = await _call("signer", self._handle.sign_licensing.remote(document), SIGNER_DEADLINE_S)
        return envelope

    async def last_checkpoint(self) -> LastSigned:
        """See ``CheckpointSigner.last``."""
        last: LastSigned = await _call("signer", self._handle.last_checkpoint.remote(), SIGNER_DEADLINE_S)
        return last

    async def sign_checkpoint(self, claim: HeadClaim) -> SignedHead:
        """See ``CheckpointSigner.sign``."""
        signed: SignedHead = await _call(
            "signer", self._handle.sign_checkpoint.remote(claim), SIGNER_DEADLINE_S
        )
        return signed

    async def ready(self) -> bool:
        """Whether a replica answers."""
        return await _answers(self._handle)

    async def backend_available(self, deadline_s: float = PING_DEADLINE_S) -> bool:
        """Whether the backend behind the signer signs; while it does not, orders wait."""
        available: bool = await _call("signer", self._handle.available.remote(), deadline_s)
        return available

    async def exposition(self) -> bytes:
        """Return the signer's series in Prometheus' text format."""
        text: bytes = await _call("signer", self._handle.exposition.remote(), PING_DEADLINE_S)
        return text


class BackgroundDirectory:
    """Reaches the background deployment; only to ask how it is. No purchase needs it."""

    def __init__(self, handle: Any) -> None:
        self._handle = _plain(handle)

    async def exposition(self) -> bytes:
        """Return the series of the background work in Prometheus' text format."""
        text: bytes = await _call("background", self._handle.exposition.remote(), PING_DEADLINE_S)
        return text


OrderCall = tuple[Any, ...]
"""``(method of LocalOrders, arguments…)``."""


class OrderDirectory:
    """Reaches order hosts by order id, through the router: the adapter when hosts are apart.

    Calls of one placement group that arrive while others are under way share the next request: a hop costs
    the same for one call as for twenty.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = _plain(handle)
        # Apart, because placing waits for Stripe: what is paid for must not stand behind it.
        self._placing = [self._batcher(group) for group in range(PLACEMENT_GROUPS)]
        self._others = [self._batcher(group) for group in range(PLACEMENT_GROUPS)]

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        """See ``OrderHost.place``. Repeated once when a host dies under it: the key makes that safe."""
        try:
            placed: PlacedOrder = await self._call(command.order_id, "place", command, idempotency)
        except DependencyError as error:
            if error.code != "order_host_unavailable":
                raise
            placed = await self._call(command.order_id, "place", command, idempotency)
        return placed

    async def receive(self, news: PaymentNews) -> str:
        """See ``OrderHost.receive``."""
        outcome: str = await self._call(news.order_id, "receive", news)
        return outcome

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """See ``OrderHost.release_key``."""
        released: ReleasedKey = await self._call(order_id, "release_key", order_id, delivery_id)
        return released

    async def refund(self, order_id: str, command: RequestRefund) -> RefundReply:
        """See ``OrderHost.refund``."""
        answer: RefundReply = await self._call(order_id, "refund", order_id, command)
        return answer

    async def act(self, order_id: str, command: CancelOrder | DecideReview) -> ActedOrder:
        """See ``OrderHost.act``."""
        acted: ActedOrder = await self._call(order_id, "act", order_id, command)
        return acted

    async def prepare_evidence(self, order_id: str, command: PrepareEvidence) -> EvidenceReply:
        """See ``OrderHost.prepare_evidence``."""
        answer: EvidenceReply = await self._call(order_id, "prepare_evidence", order_id, command)
        return answer

    async def ready(self) -> bool:
        """Whether a replica answers."""
        return await _answers(self._handle)

    async def _call(self, order_id: str, *call: Any) -> Any:
        groups = self._placing if call[0] == "place" else self._others
        return await groups[shard_of(order_id) % PLACEMENT_GROUPS].submit(call)

    def _batcher(self, group: int) -> Batcher[OrderCall, Any]:
        async def send(calls: Sequence[OrderCall]) -> Sequence[Any]:
            answers: Sequence[Any] = await _call(
                "order_host", self._at(group).run.remote(list(calls)), CALL_DEADLINE_S
            )
            return answers

        return Batcher(
            send, batch_max=CALLS_MAX, waiting_max=CALLS_WAITING_MAX, in_flight_max=REQUESTS_IN_FLIGHT_MAX
        )

    def _at(self, group: int) -> Any:
        try:
            return self._handle.options(session_id=f"orders-{group}")
        except (TypeError, ValueError):  # a Ray without session ids: any host will do, the fence decides
            return self._handle


async def _answers(handle: Any) -> bool:
    try:
        return bool(await _call("ping", handle.ping.remote(), PING_DEADLINE_S))
    except MarketplaceError:
        return False
