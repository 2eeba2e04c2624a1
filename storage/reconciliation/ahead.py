"""Reads ahead: pages of several sources are fetched by threads while this one works on the last.

A reconciliation waits for three servers, page by page; so it waits for all of them at once, and while it
computes.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

PAGES_MAX = 4  # held at once: a few megabytes
POLL_S = 0.5  # how soon a reader that nobody listens to any more ends
T = TypeVar("T")


def ahead(*sources: Iterable[T]) -> Iterator[T]:
    """Yield what the sources yield, each in its own order; each is advanced by a thread of its own.

    Raises:
        Exception: the first that a source raises.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(PAGES_MAX)
    unwanted = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def read(pages: Iterable[T]) -> None:
        try:
            for page in pages:
                if not put((page, None)):
                    return
            put((None, None))
        except BaseException as failure:  # noqa: BLE001 - it belongs to whoever listens
            put((None, failure))

    readers = [
        threading.Thread(target=read, args=(pages,), name="read-ahead", daemon=True) for pages in sources
    ]
    for reader in readers:
        reader.start()
    left = len(readers)
    try:
        while left:
            page, failure = ready.get()
            if failure is not None:
                raise failure
            if page is None:
                left -= 1
            else:
                yield page
    finally:
        unwanted.set()
        for reader in readers:
            reader.join()
