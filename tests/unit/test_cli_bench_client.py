"""The load generator's client, against a scripted peer: no sockets."""

import asyncio

import pytest

from cluster.bench.http_client import HttpConnection, HttpError


class FakeTransport:
    """Answers the first write with the whole script of its connection, in the pieces given."""

    def __init__(self, protocol, answers, *, closes=False):
        self.protocol, self.answers, self.closes = protocol, list(answers), closes
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data
        loop = asyncio.get_running_loop()
        for piece in self.answers.pop(0) if self.answers else ():
            loop.call_soon(self._deliver, piece)
        if self.closes and not self.answers:
            loop.call_soon(self._end)

    def abort(self):
        self.closed = True

    def _deliver(self, piece):
        if not self.closed:
            self.protocol.data_received(piece)

    def _end(self):
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)


@pytest.fixture
def server(monkeypatch):
    """``connections``: what each next connection answers, one list of pieces per request."""
    connections, transports = [], []

    async def create_connection(_loop, factory, _host, _port):
        answers, closes = connections.pop(0)
        protocol = factory()
        transport = FakeTransport(protocol, answers, closes=closes)
        transports.append(transport)
        protocol.connection_made(transport)
        return transport, protocol

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create_connection)
    return connections, transports


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_answers_on_one_kept_connection(server):
    connections, transports = server
    second = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\nX-A: b\r\n\r\nyes"
    connections.append(([[OK], [second]], False))
    connection = HttpConnection("http://h:81")
    first = await connection.request("GET", "/a", "X-B: c\r\n")
    answer = await connection.request("POST", "/b", "", b"{}")
    assert (first.status, first.body) == (200, b"ok")
    assert (answer.status, answer.body, answer.header(b"x-a")) == (201, b"yes", "b")
    assert len(transports) == 1
    assert transports[0].sent == (
        b"GET /a HTTP/1.1\r\nHost: h:81\r\nX-B: c\r\n\r\n"
        b"POST /b HTTP/1.1\r\nHost: h:81\r\nContent-Length: 2\r\n\r\n{}"
    )


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_pieces_may_be_cut_anywhere(server, size):
    cut = [CHUNKED[start : start + size] for start in range(0, len(CHUNKED), size)]
    server[0].append(([cut, [OK]], False))
    connection = HttpConnection("http://h")
    assert (await connection.request("GET", "/")).body == b"abcde"
    assert (await connection.request("GET", "/")).body == b"ok"


async def test_a_reused_connection_that_was_closed_is_replaced_once(server):
    connections, transports = server
    connections.extend([([[OK], []], True), ([[OK]], False)])
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    assert (await connection.request("POST", "/", "", b"x")).status == 200
    assert len(transports) == 2


async def test_a_connection_that_ends_within_an_answer_is_not_tried_again(server):
    connections, transports = server
    connections.append(([[OK], [OK[:20]]], True))
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    with pytest.raises(HttpError, match="within"):
        await connection.request("GET", "/")
    assert len(transports) == 1


async def test_a_fresh_connection_that_is_closed_is_an_error(server):
    server[0].append(([[]], True))
    with pytest.raises(HttpError, match="before"):
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
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 500,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
async def test_what_is_not_http_is_refused_and_closes(server, script):
    connections, transports = server
    connections.append(([[script]], True))
    with pytest.raises(HttpError):
        await HttpConnection("http://h").request("GET", "/")
    assert all(transport.closed for transport in transports)


async def test_connection_close_is_obeyed(server):
    connections, transports = server
    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    connections.extend([([[closing]], False), ([[OK]], False)])
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    await connection.request("GET", "/")
    assert len(transports) == 2


async def test_what_nobody_asked_for_closes_the_connection(server):
    connections, transports = server
    connections.extend([([[OK + b"HTTP/1.1 200 OK\r\n"]], False), ([[OK]], False)])
    connection = HttpConnection("http://h")
    await connection.request("GET", "/")
    assert transports[0].closed
    assert (await connection.request("GET", "/")).status == 200


async def test_a_silent_server_is_given_up_after_the_timeout(server):
    server[0].append(([[]], False))
    with pytest.raises(TimeoutError):
        await HttpConnection("http://h").request("GET", "/", timeout_s=0.01)
    assert server[1][0].closed


async def test_a_successful_body_goes_to_its_reader_piece_by_piece(server):
    server[0].append(([[CHUNKED[:-20], CHUNKED[-20:]]], False))
    pieces = []
    answer = await HttpConnection("http://h").request("GET", "/e", on_body=pieces.append)
    assert b"".join(pieces) == b"abcde"
    assert answer.body == b""


async def test_the_body_of_a_refusal_stays_in_the_answer(server):
    server[0].append(([[b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"]], False))
    pieces = []
    answer = await HttpConnection("http://h").request("GET", "/e", on_body=pieces.append)
    assert (answer.status, answer.body, pieces) == (503, b"{}", [])


def test_only_plain_http():
    with pytest.raises(ValueError, match="plain http"):
        HttpConnection("https://h")
