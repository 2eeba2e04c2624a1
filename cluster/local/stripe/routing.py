"""What a route leads to: the decision, the parameters that it takes, and who may ask for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cluster.local.stripe.parameters import Specification, Values
from cluster.local.stripe.refusals import Document
from cluster.local.stripe.turn import Turn

Result: TypeAlias = Document | bytes
Run: TypeAlias = Callable[[Turn, str, Values], Result]
Route: TypeAlias = tuple[str, str, int, str]  # method, resource, number of parts after it, action


@dataclass(frozen=True, slots=True)
class Operation:
    """One documented request."""

    run: Run
    specification: Specification
    required: tuple[str, ...] = ()
    publishable: bool = False
