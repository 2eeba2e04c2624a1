"""Named SQL: queries live in .sql files and are parsed once, at import.

Format: a line ``-- name: place_order`` starts a query, which runs to the next such line. Lines of
comment right below the name document it. The style is procrastinate's ``sql/queries.sql``.
This module refuses duplicate names and empty queries, so a typo fails at import and not in production.
"""

import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)


def parse_queries(text: str) -> Mapping[str, str]:
    """Split SQL ``text`` into named queries.

    Raises:
        ValueError: for text before the first name, a duplicate name, or an empty query.
    """
    parts = _NAME.split(text)
    if parts[0].strip() and not all(
        line.startswith("--") for line in parts[0].strip().splitlines() if line.strip()
    ):
        raise ValueError("SQL before the first '-- name:' line")
    queries: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        # Comments are for readers of the file: dropping them keeps the statement text, which is the
        # key of psycopg's prepared-statement cache, short.
        lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith("--")]
        query = "\n".join(lines).strip().rstrip(";")
        if not query:
            raise ValueError(f"query {name} is empty")
        if name in queries:
            raise ValueError(f"query {name} is defined twice")
        queries[name] = query
    return MappingProxyType(queries)


def load_queries(package: str, resource: str = "queries.sql") -> Mapping[str, str]:
    """Read and parse ``resource`` from ``package``, for example ``("storage.orders", "queries.sql")``."""
    return parse_queries(resources.files(package).joinpath(resource).read_text(encoding="utf-8"))
