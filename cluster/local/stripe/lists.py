"""Lists: a page of stored objects, newest first, as every list of the API answers.

Follows https://docs.stripe.com/api/pagination.
"""

from collections.abc import Callable

import orjson

from cluster.local.stripe import documents
from cluster.local.stripe.parameters import LIST_LIMIT_DEFAULT, Values
from cluster.local.stripe.refusals import Document, invalid
from cluster.local.stripe.turn import PageQuery, Turn


def page(
    turn: Turn,
    kind: str,
    url: str,
    values: Values,
    *,
    parent: str | None = None,
    topics: tuple[str, ...] | None = None,
    shown: Callable[[Document], Document] | None = None,
) -> Document:
    """Return a page of a kind's objects, each as ``shown`` shows it.

    Raises:
        RefusedError: 400 for two cursors at once, 404 for one that names no such object.
    """
    if "starting_after" in values and "ending_before" in values:
        raise invalid("You may only specify one of starting_after, ending_before.", "ending_before")
    query = PageQuery(
        kind=kind,
        parent=parent,
        topics=topics,
        limit=values.get("limit", LIST_LIMIT_DEFAULT),
        starting_after=values.get("starting_after"),
        ending_before=values.get("ending_before"),
        created=values.get("created", {}),
        currency=values.get("currency"),
        delivery_success=values.get("delivery_success"),
    )
    bodies, has_more = turn.source.page(query)
    data = [orjson.loads(body) for body in bodies]
    return documents.page(url, data if shown is None else list(map(shown, data)), has_more=has_more)


def empty(url: str) -> Document:
    """Return a page without objects."""
    return documents.page(url, [], has_more=False)
