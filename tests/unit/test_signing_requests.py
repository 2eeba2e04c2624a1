"""Requests to key services: an answer that is slow or endless is none."""

import itertools
import time

import httpx
import pytest

from storage.signing.requests import ANSWER_BYTES_MAX, request


def client(stream, status=200):
    def answer(sent):
        assert sent.headers["accept-encoding"] == "identity"
        return httpx.Response(status, stream=stream)

    return httpx.Client(base_url="http://service.test", transport=httpx.MockTransport(answer))


class Stream(httpx.SyncByteStream):
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        yield from self.chunks


def test_an_answer_is_read_whole():
    answer = request(client(Stream([b'{"a":', b"1}"]), 503), "POST", "/x", {"b": 2}, 1.0)
    assert (answer.status_code, answer.json()) == (503, {"a": 1})


def test_an_endless_answer_is_cut():
    with pytest.raises(ValueError, match=str(ANSWER_BYTES_MAX)):
        request(client(Stream(itertools.repeat(b"x" * 65_536))), "GET", "/x", None, 5.0)


def test_an_answer_that_drips_ends_with_its_deadline():
    def dripping():
        while True:
            time.sleep(0.01)
            yield b" "

    started_s = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        request(client(Stream(dripping())), "GET", "/x", None, 0.1)
    assert time.monotonic() - started_s < 2
