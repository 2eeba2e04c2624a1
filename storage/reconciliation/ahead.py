"""Reads ahead: an iterator's next pages are fetched by a thread while this one works on the last.

A reconciliation waits for three servers in turn, page by page; so it waits for them while it computes.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

PAGES_MAX = 3  # held at once: a megabyte or two
POLL_S = 0.5  # how soon a reader that nobody listens to any more ends
T = TypeVar("T")


def ahead(pages: Iterable[T]) -> Iterator[T]:
    """Yield what ``pages`` yields; it is advanced by a thread of its own, which alone touches its connection.

    Raises:
        Exception: what ``pages`` raises.
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

    def read() -> None:
        try:
            for page in pages:
                if not put((page, None)):
                    return
            put((None, None))
        except BaseException as failure:  # noqa: BLE001 - it belongs to whoever listens
            put((None, failure))

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while True:
            page, failure = ready.get()
            if failure is not None:
                raise failure
            if page is None:
                return
            yield page
    finally:
        unwanted.set()
        reader.join()
