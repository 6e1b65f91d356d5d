"""Requests to servers inside a sandbox: ``PORT-ID.DOMAIN`` leads to that port of its loopback address."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from pyvmm_server import threads
from pyvmm_server.errors import ClientError, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from pyvmm_server.sandboxes import Live

    Headers = list[tuple[bytes, bytes]]

_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers of a connection, not of a request (RFC 9110, 7.6.1)."""
RELAY = "x-pyvmm-relay"
"""Proves to a node that a request is of its server."""
OURS = {"x-access-token", "x-api-key", "e2b-sandbox-id", "e2b-sandbox-port", RELAY}
"""Headers that the sandbox's programs do not see."""
_PIECE = 64 << 10
_CONNECT_S = 5.0


class Upstream:
    """A connection to a server inside, for one request.

    :ivar reader: what it sends, after a change of protocols
    :ivar writer: likewise
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_PIECE)

    async def send(self, event: h11.Event) -> None:
        if data := self._state.send(event):
            self.writer.write(data)
            await self.writer.drain()

    async def receive(self) -> h11.Event:
        """
        :raises h11.RemoteProtocolError: the server does not speak HTTP
        """
        while True:
            event = self._state.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type)
                return event
            self._state.receive_data(await self.reader.read(_PIECE))

    async def body(self) -> AsyncIterator[bytes]:
        """What follows an :class:`h11.Response`; closes the connection."""
        try:
            while isinstance(event := await self.receive(), h11.Data):
                yield bytes(event.data)
        finally:
            self.close()

    @property
    def rest(self) -> bytes:
        """What has come behind the answer, after a change of protocols."""
        return self._state.trailing_data[0]

    def close(self) -> None:
        self.writer.close()


async def connect(live: Live, port: int) -> Upstream:
    """
    :raises ClientError: nothing listens there
    """
    try:
        connection = await threads.call(live.box.ports.connect, port)
    except OSError as error:
        raise ClientError(502, f"The sandbox is running but port {port} is closed: the port is not open") from error
    connection.setblocking(False)
    return Upstream(*await asyncio.open_connection(sock=connection))


def no_answer(port: int, why: object) -> ClientError:
    """The server inside does not speak HTTP."""
    return ClientError(502, f"the server at port {port} of the sandbox did not answer: {why}")


def end_to_end(head: h11.Response) -> list[tuple[bytes, bytes]]:
    """The headers of an answer without those of the connection."""
    return [(name, value) for name, value in head.headers.raw_items() if name.decode("ascii").lower() not in _HOP]


async def answer(live: Live, port: int, request: Request) -> Response:
    """Pass a request on, and the answer back.

    :raises ClientError: nothing listens there, or something that does not speak HTTP
    """
    headers = [each for each in request.headers.raw if each[0].decode("latin-1") not in OURS]
    return await _pass_on(await connect(live, port), request, headers, lambda error: no_answer(port, error))


async def answer_of_node(host: str, port: int, request: Request, headers: Headers) -> Response:
    """Pass a request with these headers on to the server of another node, and the answer back.

    :raises Unreachable: it does not answer
    """
    return await _pass_on(await connect_to_node(host, port), request, headers, Unreachable)


async def connect_to_node(host: str, port: int) -> Upstream:
    """
    :raises Unreachable: it does not answer
    """
    try:
        async with asyncio.timeout(_CONNECT_S):
            return Upstream(*await asyncio.open_connection(host, port))
    except OSError as error:
        raise Unreachable(error) from error


async def _pass_on(
    upstream: Upstream, request: Request, headers: Headers, failure: Callable[[Exception], ClientError]
) -> Response:
    try:
        head = await exchange(upstream, request, headers)
    except (OSError, h11.ProtocolError) as error:
        upstream.close()
        raise failure(error) from error
    except BaseException:
        upstream.close()
        raise
    response = StreamingResponse(upstream.body(), head.status_code)
    response.raw_headers = end_to_end(head)
    return response


async def exchange(upstream: Upstream, request: Request, headers: Headers) -> h11.Response:
    """Send a request with these headers; the head of its answer.

    :raises OSError: the connection is broken
    :raises h11.ProtocolError: the server inside does not speak HTTP
    """
    target = request.scope.get("raw_path", b"") or request.url.path.encode()
    if query := request.scope["query_string"]:
        target += b"?" + query
    sized = "content-length" in request.headers
    headers = [(name, value) for name, value in headers if name.decode("latin-1") not in _HOP]
    if not sized and "transfer-encoding" in request.headers:
        headers.append((b"transfer-encoding", b"chunked"))
    headers.append((b"connection", b"close"))
    await upstream.send(h11.Request(method=request.method, target=target, headers=headers))
    async for part in request.stream():
        if part:
            await upstream.send(h11.Data(data=part))
    await upstream.send(h11.EndOfMessage())
    # A server inside can be silent for ever: without the client, nobody would end this.
    head = asyncio.ensure_future(_head(upstream))
    left = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait([head, left], return_when=asyncio.FIRST_COMPLETED)
        if not head.done():
            raise ClientDisconnect
        return head.result()
    finally:
        for each in (head, left):
            each.cancel()
        await asyncio.gather(head, left, return_exceptions=True)


async def _departure(request: Request) -> None:
    """Until the client has left; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _head(upstream: Upstream) -> h11.Response:
    while True:
        event = await upstream.receive()
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection was closed")
