"""A relay with the audit log's consumer and sequencer in a process of its own, to be killed: ``DSN``."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from storage.market.pool import build_pool
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.audit import LocalSigner, LogWorld
from tests.fakes.carts import NOW


async def main() -> None:
    dsn = sys.argv[1]
    key = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
    pool = build_pool(dsn, name="killed", size_max=4)
    await pool.open(wait=True)
    world = LogWorld(dsn, pool, LocalSigner(dsn, key, [register(key.public_key, NOW)]))
    while True:
        await world.relay.once()
        await world.sequencer.once()


asyncio.run(main())
