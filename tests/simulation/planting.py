"""How bugs are planted: a registry of patches to production code or to a port's promise.

``PLANTED`` maps a name to the patch and to the first seed in which it is known to show, so that the suite
looks there first. docs/simulation.md lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Planted:
    """One bug: how to plant it, and the first seed in which it showed when this was written."""

    plant: Callable[[Patch], None]
    shows_at: int


PLANTED: dict[str, Planted] = {}


def planted(shows_at: int) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTED[plant.__name__] = Planted(plant, shows_at)
        return plant

    return register
