"""Finance's routes: the ledger over HTTP (ADR 0004, ADR 0009).

Thin on purpose: read the document, let the domain judge it, post it through the group commit, write
the answer. Every route names the role that it takes. It knows no orders. Not here: editing, deleting;
accounts, balances, statements and periods are in ``books``.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from domain.errors import MarketplaceError, NotFoundError
from domain.ledger import Entry, is_entry_key, reversal
from serve_app.finance import documents, problems, query
from serve_app.finance.access import Access, Handler, Role, allowed
from serve_app.finance.books import BooksHandlers
from serve_app.finance.edge import Edge, read_body
from serve_app.finance.metrics import FinanceMetrics
from serve_app.finance.openapi import openapi_document
from storage.finance.balance_store import BalanceStore
from storage.finance.books_store import BooksStore
from storage.finance.group_commit import GroupCommit
from storage.finance.ledger_store import LedgerStore, Outcome, PostedEntry
from storage.finance.upkeep import Upkeep

ENTRIES_PAGE_MAX = 500  # a sale has three postings: some 200 kB; at the most (200 each) five megabytes
POOL_MAX_DEFAULT = 4  # one transaction at a time posts, the others read; two cores run no more at once

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FinanceServiceSettings:
    """What the service is told from outside: its database, who may do what, its pool's size.

    ``token`` None: only client certificates count. ``identities`` are their URI names and roles.
    """

    dsn: str = field(repr=False)
    token: str | None = field(repr=False)
    identities: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    pool_max: int = POOL_MAX_DEFAULT


class Handlers:
    """The request handlers, with the store they share."""

    def __init__(self, store: LedgerStore, upkeep: Upkeep, metrics: FinanceMetrics) -> None:
        self._store = store
        self._upkeep = upkeep
        self._metrics = metrics
        self._group_commit = GroupCommit(store, observe_group=metrics.group)
        self._openapi = documents.dump(openapi_document())

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Open the pool without waiting for the database; on the way out answer what was accepted."""
        await self._store.open()
        upkeep = asyncio.create_task(self._upkeep.run())
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            await self._group_commit.drain()
            await self._store.close()

    async def post_entry(self, request: Request) -> Response:
        """POST /v1/entries."""
        try:
            entry = documents.parse_entry(documents.load(await read_body(request)))
            outcome = await self._group_commit.post(entry)
            if isinstance(outcome, MarketplaceError):
                raise outcome
        except MarketplaceError as error:
            self._metrics.entry(error.code)
            raise
        return self._posted(outcome)

    async def post_reversal(self, request: Request) -> Response:
        """POST /v1/entries/{entry_key}/reversal."""
        try:
            said = documents.parse_reversal(documents.load(await read_body(request)))
            original = await self._existing(request.path_params["entry_key"])
            outcome = await self._store.post_reversal(reversal(original.entry, **said))
            if isinstance(outcome, MarketplaceError):
                raise outcome
        except MarketplaceError as error:
            self._metrics.entry(error.code)
            raise
        return self._posted(outcome)

    async def post_batch(self, request: Request) -> Response:
        """POST /v1/entries/batch: one transaction where possible, one verdict per entry."""
        results: list[dict[str, Any] | None] = []
        sound: list[tuple[int, Entry]] = []
        for index, raw in enumerate(documents.parse_batch(documents.load(await read_body(request)))):
            try:
                sound.append((index, documents.parse_entry(raw)))
                results.append(None)
            except MarketplaceError as error:
                results.append(self._batch_result(error))
        if sound:
            outcomes = await self._store.post([entry for _, entry in sound])
            for (index, _), outcome in zip(sound, outcomes, strict=True):
                results[index] = self._batch_result(outcome)
        return Response(documents.dump({"results": results}), media_type=_JSON)

    async def get_entry(self, request: Request) -> Response:
        """GET /v1/entries/{entry_key}."""
        posted = await self._existing(request.path_params["entry_key"])
        return Response(documents.dump(documents.entry_document(posted)), media_type=_JSON)

    async def list_entries(self, request: Request) -> Response:
        """GET /v1/entries: all, of an account, also in a window of time, or by their keys' beginning."""
        params = query.parse(request, {"account", "currency", "from", "to", "key_prefix", "cursor", "limit"})
        limit = query.limit(params, ENTRIES_PAGE_MAX)
        cursor = params.get("cursor")
        if prefix := query.key_prefix(params):
            after_key = query.key_cursor(cursor, prefix)
            page = await self._store.entries_of_prefix(prefix, after_key=after_key, limit=limit)
            next_cursor = page[-1].entry.entry_key if page else None
        elif window := query.window(params):
            account, currency, since, until = window
            after = query.window_cursor(cursor, since)
            page = await self._store.entries_in_window(
                account, currency, after=after, until=until, limit=limit
            )
            next_cursor = query.window_cursor_after(page[-1]) if page else None
        else:
            page = await self._store.entries(
                account=query.account(params.get("account")),
                after_id=query.entries_cursor(cursor),
                limit=limit,
            )
            next_cursor = query.entries_cursor_after(page[-1]) if page else None
        body = {
            "entries": [documents.entry_document(posted) for posted in page],
            "next_cursor": next_cursor if len(page) == limit else None,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def livez(self, _request: Request) -> Response:
        """GET /livez: the process answers; says nothing of the database."""
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: the ledger's tables can be read."""
        await self._store.ready()
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics."""
        body = self._metrics.exposition(self._store.connections.stats())
        return Response(body, media_type="text/plain; version=0.0.4")

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return Response(self._openapi, media_type=_JSON)

    async def _existing(self, entry_key: str) -> PostedEntry:
        posted = await self._store.entry(entry_key) if is_entry_key(entry_key) else None
        if posted is None:
            raise NotFoundError("entry_unknown", "No entry has this key. Nothing was posted under it.")
        return posted

    def _posted(self, posted: PostedEntry) -> Response:
        self._metrics.entry("replayed" if posted.replayed else "posted")
        return Response(
            documents.dump(documents.posting_result(posted)),
            200 if posted.replayed else 201,
            {"Location": f"/v1/entries/{posted.entry.entry_key}"},
            _JSON,
        )

    def _batch_result(self, outcome: Outcome) -> dict[str, Any]:
        if isinstance(outcome, PostedEntry):
            self._metrics.entry("replayed" if outcome.replayed else "posted")
            status = 200 if outcome.replayed else 201
            return {"status": status, "entry": documents.posting_result(outcome)}
        self._metrics.entry(outcome.code)
        return {"status": problems.status_of(outcome), "problem": problems.document(outcome)}


def build_app(settings: FinanceServiceSettings) -> ASGIApp:
    """Build Finance as an ASGI application; its lifespan opens and closes the database pool."""
    metrics = FinanceMetrics()
    store = LedgerStore(settings.dsn, pool_max=settings.pool_max)
    books = BooksStore(store.connections)
    upkeep = Upkeep(books)
    handlers = Handlers(store, upkeep, metrics)
    router = Router(
        [
            *_entry_routes(handlers),
            *_books_routes(BooksHandlers(books, BalanceStore(store.connections), upkeep)),
            # Open to all; see edge.OPEN_PATHS.
            Route("/livez", handlers.livez, methods=["GET"]),
            Route("/readyz", handlers.readyz, methods=["GET"]),
            Route("/metrics", handlers.metrics, methods=["GET"]),
            Route("/openapi.json", handlers.openapi, methods=["GET"]),
        ],
        redirect_slashes=False,
        lifespan=handlers.lifespan,
    )
    access = Access(token=settings.token, identities=settings.identities)
    return Edge(router, access=access, metrics=metrics)


def _entry_routes(handlers: Handlers) -> list[Route]:
    return [
        _route("POST", "/v1/entries", Role.POSTER, handlers.post_entry),
        _route("POST", "/v1/entries/batch", Role.POSTER, handlers.post_batch),
        _route("GET", "/v1/entries", Role.READER, handlers.list_entries),
        _route("GET", "/v1/entries/{entry_key:path}", Role.READER, handlers.get_entry),
        _route("POST", "/v1/entries/{entry_key:path}/reversal", Role.POSTER, handlers.post_reversal),
    ]


def _books_routes(handlers: BooksHandlers) -> list[Route]:
    return [
        _route("GET", "/v1/chart-of-accounts", Role.READER, handlers.get_chart),
        _route("GET", "/v1/accounts", Role.READER, handlers.list_accounts),
        _route("GET", "/v1/accounts/{account}", Role.READER, handlers.get_account),
        _route("PUT", "/v1/accounts/{account}", Role.FINANCE_ADMIN, handlers.declare_account),
        _route("POST", "/v1/accounts/{account}/close", Role.FINANCE_ADMIN, handlers.close_account),
        _route("GET", "/v1/accounts/{account}/balance", Role.READER, handlers.get_balance),
        _route("GET", "/v1/accounts/{account}/statement", Role.READER, handlers.get_statement),
        _route("GET", "/v1/trial-balance", Role.READER, handlers.get_trial_balance),
        _route("GET", "/v1/periods", Role.READER, handlers.list_periods),
        _route("POST", "/v1/periods/{period}/close", Role.FINANCE_ADMIN, handlers.close_period),
    ]


def _route(method: str, path: str, role: Role, handler: Handler) -> Route:
    return Route(path, allowed(role, handler), methods=[method])
