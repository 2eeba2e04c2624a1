"""Reading ahead keeps order, passes failures on, holds little, and ends when nobody listens."""

import threading

import pytest

from storage.reconciliation.ahead import PAGES_MAX, ahead


def test_pages_come_in_order_from_a_thread_of_their_own():
    threads = set()

    def pages():
        for number in range(50):
            threads.add(threading.get_ident())
            yield [number]

    assert [page[0] for page in ahead(pages())] == list(range(50))
    assert threading.get_ident() not in threads


def test_a_failure_comes_where_it_happened():
    def pages():
        yield [1]
        raise ValueError("away")

    read = ahead(pages())
    assert next(read) == [1]
    with pytest.raises(ValueError, match="away"):
        next(read)


def test_it_holds_few_pages_and_ends_with_its_listener():
    made = []

    def pages():
        for number in range(1_000):
            made.append(number)
            yield [number]

    read = ahead(pages())
    next(read)
    read.close()
    assert len(made) <= PAGES_MAX + 3
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_several_sources_are_read_at_once_each_in_its_order():
    meet = threading.Barrier(3, timeout=5)

    def pages(name):
        meet.wait()  # passes only if all three are under way
        for number in range(5):
            yield name, number

    read = list(ahead(pages("a"), pages("b"), pages("c")))
    for name in "abc":
        assert [number for found, number in read if found == name] == list(range(5))
    assert list(ahead()) == []
