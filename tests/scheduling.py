"""How tests share two processes: what starts a whole stack runs alone, after everything else.

A stack brings a Ray with it, and a Ray that finds the machine busy does not start. Besides, it needs both
cores. All other files are handed out whole, so a module's fixtures are made once.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

STACKS = ("cluster", "acceptance")  # markers
# Their tests in the order in which they run. The stack of the acceptance tests lives until the end.
ALONE = (
    "tests/integration/test_local_stack.py::test_the_whole_stack_",
    "tests/cluster/",
    "tests/browser/",
    "tests/acceptance/",
)
# Files that take long come first: a process that idles at the end is wasted.
LONG = ("tests/simulation/", "tests/integration/test_payouts_crashes.py", "tests/integration/test_signing_")
RANK_OF_ALONE = 3


def rank(nodeid: str) -> int:
    """Where a test belongs: long files, those with services, all others, and what runs alone."""
    for place, prefix in enumerate(ALONE):
        if nodeid.startswith(prefix):
            return RANK_OF_ALONE + place
    if nodeid.startswith(LONG):
        return 0
    return 1 if nodeid.startswith(("tests/integration/", "tests/bench/")) else 2


def in_order(items: list[pytest.Item]) -> None:
    """Sort tests by rank; refuses a test that starts a stack and would not run alone."""
    for item in items:
        if rank(item.nodeid) < RANK_OF_ALONE and any(map(item.get_closest_marker, STACKS)):
            raise pytest.UsageError(f"{item.nodeid} starts a stack: name it in tests/scheduling.py")
    items.sort(key=lambda item: rank(item.nodeid))


class AloneLast(LoadFileScheduling):
    """Hands out files until that remains which runs alone; one worker gets it when the other has ended."""

    def __init__(self, config, log=None) -> None:
        config.option.loadscopereorder = False  # by number of tests says nothing of how long they take
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if rank(nodeid) >= RANK_OF_ALONE else super()._split_scope(nodeid)

    def _assign_work_unit(self, node) -> None:
        others = [one for one in self.nodes if one is not node]
        if next(iter(self.workqueue)) != "alone" or not others:
            super()._assign_work_unit(node)
        elif not all(one.shutting_down for one in others):
            node.shutdown()

    def remove_node(self, node) -> str | None:
        crashed = super().remove_node(node)
        if self.workqueue:
            for last in self.nodes:
                self._reschedule(last)
        return crashed
