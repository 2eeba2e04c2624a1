"""Which shards a relay should own: as many as its fair share, whichever are free.

Nobody assigns shards. Every relay looks how many relays there are, gives up what is beyond its share and
takes free shards up to it. Shares are rounded up, so together they cover all shards, and a relay that owns
no more than its share keeps what it has: an unchanged set of relays changes nothing.
"""

import random
from collections.abc import Collection, Sequence

from domain.events import SHARDS
from domain.events.ports import Standing


def fair_share(relays: int) -> int:
    """Return how many shards each of ``relays`` may own."""
    return -(-SHARDS // max(1, relays))


def surplus(owned: Collection[int], standing: Standing) -> Sequence[int]:
    """Return the shards to give up so that relays that came later find some."""
    return sorted(owned)[fair_share(standing.relays) :]


def candidates(owned: Collection[int], standing: Standing) -> Sequence[int]:
    """Return free shards to try, in random order so that relays which start together seldom collide."""
    free = [shard for shard in range(SHARDS) if shard not in standing.taken and shard not in owned]
    random.shuffle(free)
    return free
