"""Finance's stores over a copy of a migrated database, for tests of the books."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from postgres_fixture import Database

from domain.ledger import Entry, Posting
from storage.finance.balance_store import BalanceStore
from storage.finance.books_store import BooksStore
from storage.finance.ledger_store import LedgerStore, PostedEntry
from storage.finance.upkeep import Upkeep

START = datetime(2025, 12, 20, tzinfo=UTC)
ACCOUNTS = ("stripe:clearing", "seller:a:payable", "seller:b:payable", "platform:fees", "refunds")
CURRENCIES = ("EUR", "USD")


@dataclass
class Books:
    """The stores over one pool."""

    ledger: LedgerStore
    books: BooksStore = field(init=False)
    balances: BalanceStore = field(init=False)
    upkeep: Upkeep = field(init=False)

    def __post_init__(self) -> None:
        self.books = BooksStore(self.ledger.connections)
        self.balances = BalanceStore(self.ledger.connections)
        self.upkeep = Upkeep(self.books)

    async def post(self, entry: Entry) -> str:
        (outcome,) = await self.ledger.post([entry])
        return "posted" if isinstance(outcome, PostedEntry) else outcome.code


@asynccontextmanager
async def opened(database: Database, pool_max: int = 2) -> AsyncIterator[Books]:
    store = LedgerStore(database.dsn_for("finance_app"), pool_max=pool_max)
    await store.open()
    try:
        yield Books(store)
    finally:
        await store.close()


@pytest.fixture(scope="session")
def migrated_books(postgres_server):
    """To be copied."""
    created = postgres_server.create_migrated("finance")
    yield created
    postgres_server.drop_database(created.name)


@pytest.fixture
def copied_books(postgres_server, migrated_books):
    copy = postgres_server.create_database(template=migrated_books.name)
    yield copy
    postgres_server.drop_database(copy.name)


def sale(
    key: str, at: datetime, amount: int = 100, debit: str = ACCOUNTS[0], credit: str = ACCOUNTS[1]
) -> Entry:
    return Entry(key, "USD", at, "", (Posting(debit, amount), Posting(credit, -amount)))
