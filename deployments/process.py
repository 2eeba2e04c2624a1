"""What every serving process does first: its logs, and a garbage collector that fits a server.

Request objects die by reference count. The default collector still walks the young generation every 700
allocations, hundreds of times per order; real cycles are few, so a far higher threshold finds them soon
enough. What was made at the start stays, and is set apart so that no collection walks it again.
"""

import gc

from deployments.logs import configure_logging
from deployments.settings import Settings

GC_THRESHOLDS = (50_000, 20, 50)


def prepare_process(settings: Settings) -> None:
    """Set this process up; call once, before anything else."""
    configure_logging(settings.log_level, settings.log_file)
    gc.set_threshold(*GC_THRESHOLDS)


def settle_process() -> None:
    """Call once everything that lives as long as the process has been made."""
    gc.collect()
    gc.freeze()
