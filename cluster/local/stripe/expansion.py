"""``expand``: replaces ids in an answer by the objects that they name.

A path that names nothing expandable is ignored, so that code written for more of Stripe still runs.
Follows https://docs.stripe.com/api/expanding_objects.
"""

from collections.abc import Sequence

from cluster.local.stripe.refusals import Document, invalid
from cluster.local.stripe.turn import Turn

PATHS_MAX = 20
DEPTH_MAX = 4  # Stripe's limit
_KINDS = {
    "latest_charge": "charge",
    "charge": "charge",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
}


def expand(turn: Turn, document: Document, paths: Sequence[str]) -> None:
    """Expand ``document`` in place.

    Raises:
        RefusedError: 400 for more or deeper paths than Stripe takes.
    """
    if len(paths) > PATHS_MAX or any(path.count(".") > DEPTH_MAX for path in paths):
        raise invalid(f"At most {PATHS_MAX} paths of {DEPTH_MAX} levels can be expanded.", "expand")
    for path in paths:
        _expand(turn, document, path.split("."))


def _expand(turn: Turn, document: Document, path: list[str]) -> None:
    name, rest = path[0], path[1:]
    value = document.get(name)
    if isinstance(value, list):
        for member in value:
            if isinstance(member, dict) and rest:
                _expand(turn, member, rest)
        return
    if isinstance(value, str) and name in _KINDS:
        value = turn.find(_KINDS[name], value)
        if value is not None:
            document[name] = value
    if isinstance(value, dict) and rest:
        _expand(turn, value, rest)
