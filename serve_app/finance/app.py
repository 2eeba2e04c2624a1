"""Finance's routes: the ledger over HTTP (ADR 0004).

Thin on purpose: read the document, let the domain judge it, post it through the group commit, write
the answer. It knows no chart of accounts and no orders. Not here: editing, deleting, reporting.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from domain.errors import MarketplaceError, NotFoundError
from domain.ledger import Entry, is_entry_key
from serve_app.finance import documents, problems, query
from serve_app.finance.edge import Edge, read_body
from serve_app.finance.metrics import FinanceMetrics
from serve_app.finance.openapi import openapi_document
from storage.finance.group_commit import GroupCommit
from storage.finance.ledger_store import LedgerStore, Outcome, PostedEntry

ENTRIES_PAGE_MAX = 100  # of 200 postings at most: about a megabyte
BALANCES_PAGE_MAX = 500
TRIAL_BALANCE_PARTS_MAX = 1_000  # leading parts of names are few by nature; the total covers all anyway
POOL_MAX_DEFAULT = 4  # one transaction at a time posts, the others read; two cores run no more at once

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FinanceServiceSettings:
    """What the service is told from outside: its database, its token, its pool's size."""

    dsn: str = field(repr=False)
    token: str = field(repr=False)
    pool_max: int = POOL_MAX_DEFAULT


class Handlers:
    """The request handlers, with the store they share."""

    def __init__(self, store: LedgerStore, metrics: FinanceMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._group_commit = GroupCommit(store, observe_group=metrics.group)
        self._openapi = documents.dump(openapi_document())

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Open the pool without waiting for the database; on the way out answer what was accepted."""
        await self._store.open()
        try:
            yield
        finally:
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
        self._metrics.entry("replayed" if outcome.replayed else "posted")
        headers = {"Location": f"/v1/entries/{entry.entry_key}"}
        return Response(
            documents.dump(documents.posting_result(outcome)),
            200 if outcome.replayed else 201,
            headers,
            _JSON,
        )

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
        entry_key = request.path_params["entry_key"]
        posted = await self._store.entry(entry_key) if is_entry_key(entry_key) else None
        if posted is None:
            raise NotFoundError("entry_unknown", "No entry has this key. Nothing was posted under it.")
        return Response(documents.dump(documents.entry_document(posted)), media_type=_JSON)

    async def list_entries(self, request: Request) -> Response:
        """GET /v1/entries."""
        params = query.parse(request, {"account", "cursor", "limit"})
        limit = query.limit(params, ENTRIES_PAGE_MAX)
        page = await self._store.entries(
            account=query.account(params.get("account")),
            after_id=query.entries_cursor(params.get("cursor")),
            limit=limit,
        )
        body = {
            "entries": [documents.entry_document(posted) for posted in page],
            "next_cursor": query.entries_cursor_after(page[-1]) if len(page) == limit else None,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def get_balance(self, request: Request) -> Response:
        """GET /v1/accounts/{account}/balance."""
        params = query.parse(request, {"currency", "as_of"})
        account = query.required_account(request.path_params["account"])
        currency, as_of = query.currency(params), query.as_of(params)
        balance_minor, posting_count = await self._store.balance(account, currency, as_of)
        body = {
            "account": account,
            "currency": currency,
            "as_of": as_of,
            "balance_minor": balance_minor,
            "posting_count": posting_count,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def list_accounts(self, request: Request) -> Response:
        """GET /v1/accounts."""
        params = query.parse(request, {"prefix", "cursor", "limit"})
        limit = query.limit(params, BALANCES_PAGE_MAX)
        page = await self._store.balances(
            prefix=query.account_prefix(params.get("prefix", "")),
            after=query.accounts_cursor(params.get("cursor")),
            limit=limit,
        )
        body = {
            "accounts": [documents.balance_document(balance) for balance in page],
            "next_cursor": query.accounts_cursor_after(page[-1]) if len(page) == limit else None,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def get_trial_balance(self, request: Request) -> Response:
        """GET /v1/trial-balance."""
        params = query.parse(request, {"currency", "as_of"})
        currency, as_of = query.currency(params), query.as_of(params)
        total, *parts = await self._store.trial_balance(currency, as_of, TRIAL_BALANCE_PARTS_MAX)
        body = {
            "currency": currency,
            "as_of": as_of,
            "balanced": total.debit_minor == total.credit_minor,
            "sum_minor": total.debit_minor - total.credit_minor,
            "debit_minor": total.debit_minor,
            "credit_minor": total.credit_minor,
            "posting_count": total.posting_count,
            "parts": [documents.trial_balance_row(row) for row in parts],
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
        body = self._metrics.exposition(self._store.pool_stats())
        return Response(body, media_type="text/plain; version=0.0.4")

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return Response(self._openapi, media_type=_JSON)

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
    handlers = Handlers(LedgerStore(settings.dsn, pool_max=settings.pool_max), metrics)
    router = Router(
        [
            Route("/v1/entries", handlers.post_entry, methods=["POST"]),
            Route("/v1/entries/batch", handlers.post_batch, methods=["POST"]),
            Route("/v1/entries", handlers.list_entries, methods=["GET"]),
            Route("/v1/entries/{entry_key:path}", handlers.get_entry, methods=["GET"]),
            Route("/v1/accounts", handlers.list_accounts, methods=["GET"]),
            Route("/v1/accounts/{account}/balance", handlers.get_balance, methods=["GET"]),
            Route("/v1/trial-balance", handlers.get_trial_balance, methods=["GET"]),
            Route("/livez", handlers.livez, methods=["GET"]),
            Route("/readyz", handlers.readyz, methods=["GET"]),
            Route("/metrics", handlers.metrics, methods=["GET"]),
            Route("/openapi.json", handlers.openapi, methods=["GET"]),
        ],
        redirect_slashes=False,
        lifespan=handlers.lifespan,
    )
    return Edge(router, token=settings.token, metrics=metrics)
