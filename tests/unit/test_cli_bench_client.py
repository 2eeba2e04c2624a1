import asyncio

import pytest

from cluster.bench.http_client import HttpConnection, HttpError


class FakeWriter:
    def __init__(self):
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.closed = True


@pytest.fixture
def server(monkeypatch):
    """Each connection gets the next scripted answer; returns the list of writers."""
    scripts, writers = [], []

    async def open_connection(_host, _port, limit):
        reader = asyncio.StreamReader(limit=limit)
        script = scripts.pop(0)
        reader.feed_data(script)
        reader.feed_eof()
        writers.append(FakeWriter())
        return reader, writers[-1]

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    return scripts, writers


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_answers_on_one_kept_connection(server):
    scripts, writers = server
    scripts.append(OK + b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\nX-A: b\r\n\r\nyes")
    connection = HttpConnection("http://h:81")
    first = await connection.request("GET", "/a", "X-B: c\r\n")
    second = await connection.request("POST", "/b", "", b"{}")
    assert (first.status, first.body) == (200, b"ok")
    assert (second.status, second.body, second.headers["x-a"]) == (201, b"yes", "b")
    assert len(writers) == 1
    assert writers[0].sent == (
        b"GET /a HTTP/1.1\r\nHost: h:81\r\nX-B: c\r\n\r\n"
        b"POST /b HTTP/1.1\r\nHost: h:81\r\nContent-Length: 2\r\n\r\n{}"
    )


async def test_chunks_with_extensions_and_trailers(server):
    server[0].append(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
        + OK
    )
    connection = HttpConnection("http://h")
    assert (await connection.request("GET", "/")).body == b"abcde"
    assert (await connection.request("GET", "/")).body == b"ok"


async def test_a_reused_connection_that_was_closed_is_replaced_once(server):
    scripts, writers = server
    scripts.extend([OK, OK])
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    assert (await connection.request("POST", "/", "", b"x")).status == 200
    assert len(writers) == 2


async def test_a_fresh_connection_that_is_closed_is_an_error(server):
    server[0].append(b"")
    with pytest.raises(HttpError):
        await HttpConnection("http://h").request("GET", "/")


@pytest.mark.parametrize(
    "script",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
async def test_what_is_not_http_is_refused_and_closes(server, script):
    scripts, writers = server
    scripts.append(script)
    with pytest.raises(HttpError):
        await HttpConnection("http://h").request("GET", "/")
    assert all(writer.closed for writer in writers)


async def test_connection_close_is_obeyed(server):
    scripts, writers = server
    scripts.extend([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", OK])
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    await connection.request("GET", "/")
    assert len(writers) == 2


async def test_events_are_cut_at_lines_not_at_chunks(server):
    server[0].append(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"6\r\n: hi\n\n\r\n9\r\ndata: {1}\r\n7\r\n\n\ndata:\r\n4\r\n {2}\r\n2\r\n\n\n\r\n0\r\n\r\n"
    )
    connection = HttpConnection("http://h")
    assert [data async for data in connection.events("/e")] == [b"{1}", b"{2}"]


async def test_events_of_a_refusal_are_an_error(server):
    server[0].append(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\ndata: x\n")
    with pytest.raises(HttpError, match="404"):
        _ = [data async for data in HttpConnection("http://h").events("/e")]


def test_only_plain_http():
    with pytest.raises(ValueError, match="plain http"):
        HttpConnection("https://h")
