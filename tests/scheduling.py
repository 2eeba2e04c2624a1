"""How tests share two workers: files that start whole stacks run alone, after everything else.

A stack brings a Ray with it, and a Ray that finds the machine busy does not start. Besides, they need both
cores. All other files are handed out whole, so a module's fixtures are made once.
"""

from xdist.scheduler import LoadFileScheduling

# In the order in which they run. The stack of the acceptance tests lives until the end of the session.
ALONE = (
    "tests/integration/test_local_cli.py",
    "tests/integration/test_local_stack.py",
    "tests/cluster/",
    "tests/browser/",
    "tests/acceptance/",
)
FIRST = (
    "tests/integration/",
    "tests/simulation/",
    "tests/bench/",
)  # the long ones: a worker that idles at the end is wasted
FIRST_ALONE = 2


def rank(nodeid: str) -> int:
    """Where a test belongs: long files, short files, and those that run alone."""
    for place, prefix in enumerate(ALONE):
        if nodeid.startswith(prefix):
            return FIRST_ALONE + place
    return 0 if nodeid.startswith(FIRST) else 1


class AloneLast(LoadFileScheduling):
    """Hands out files until those remain that run alone; one worker gets them when the other has ended."""

    def __init__(self, config, log=None) -> None:
        config.option.loadscopereorder = False  # by number of tests says nothing of how long they take
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if rank(nodeid) >= FIRST_ALONE else super()._split_scope(nodeid)

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
