"""Fixtures of the integration tests: real processes on loopback.

Test folders are not packages, so the fixture module is loaded by its path and registered under its
own name: tests may then write ``from postgres_fixture import Database`` for types.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_postgres = _load("postgres_fixture")
postgres_server = _postgres.postgres_server
database = _postgres.database
market_database = _postgres.market_database
finance_database = _postgres.finance_database
whole_database = _postgres.whole_database
module_database = _postgres.module_database
migrated = _postgres.migrated
module_finance_database = _postgres.module_finance_database
module_whole_database = _postgres.module_whole_database
_checked = _load("checked_orders")
checked_orders = _checked.checked_orders
copied_orders = _checked.copied_orders
_books = _load("books_world")
migrated_books = _books.migrated_books
copied_books = _books.copied_books
_load("finance_process")
_load("payouts_world")
_load("key_services")
