"""A live checklist with times: redrawn in a terminal, plain lines elsewhere and in CI.

A step is one context: it is shown while it runs, then with its time and what came out. A failing step is
marked and its exception goes on; the caller says why.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

TITLE_CHARS = 34
_SIGNS = {"running": ("…", "yellow"), "done": ("✓", "green"), "failed": ("✗", "red")}


@dataclass(slots=True)
class Item:
    """One line of the list; ``elapsed_s`` is set when it ends."""

    title: str
    state: str = "running"
    detail: str = ""
    began: float = field(default_factory=time.monotonic)
    elapsed_s: float | None = None


class Checklist:
    """Use as a context manager around the steps."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._items: list[Item] = []
        self._is_live = self._console.is_terminal and not os.environ.get("CI")
        self._live = Live(
            console=self._console, refresh_per_second=8, get_renderable=self._render, transient=False
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the list on the screen as it is."""
        if self._is_live:
            self._live.stop()

    @property
    def failed(self) -> Item | None:
        """The step that failed, if one did."""
        return next((item for item in self._items if item.state == "failed"), None)

    def begin(self, title: str) -> Item:
        """Show a step as running."""
        item = Item(title)
        self._items.append(item)
        return item

    def end(self, item: Item, state: str, elapsed_s: float | None = None) -> None:
        """Show how a step ended (``done`` or ``failed``)."""
        item.elapsed_s = time.monotonic() - item.began if elapsed_s is None else elapsed_s
        item.state = state
        if not self._is_live:
            self._console.print(_line(item))

    @contextmanager
    def step(self, title: str) -> Iterator[Item]:
        """Run a block as a step; set ``detail`` on what it yields."""
        item = self.begin(title)
        try:
            yield item
        except BaseException:
            self.end(item, "failed")
            raise
        self.end(item, "done")

    def _render(self) -> Group:
        return Group(*(_line(item) for item in list(self._items)))


def _line(item: Item) -> Text:
    sign, style = _SIGNS[item.state]
    elapsed_s = time.monotonic() - item.began if item.elapsed_s is None else item.elapsed_s
    return Text.assemble(
        (f"  {sign} ", style),
        f"{item.title:<{TITLE_CHARS}}",
        (f"{elapsed_s:7.2f} s  ", "dim"),
        item.detail,
    )
