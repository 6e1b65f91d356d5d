"""WebSockets to servers inside a sandbox: after the handshake, the bytes of both sides are passed on as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import h11
from starlette.requests import Request

from pyvmm_server import envd, interpreter, metrics, proxy, relay
from pyvmm_server.errors import ClientError, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pyvmm_server.sandboxes import Live

MOST = 256
"""At a time, to each sandbox."""
ANSWER_S = 60.0
"""How long a server inside has for the handshake."""
_REST_S = 10.0
"""How long one side has to end after the other has."""
_PIECE = 64 << 10
_KEEPALIVE_S = 60


class Reach(Protocol):
    """Who finds the sandbox of a request."""

    def named(self, request: Request) -> tuple[str, str]:
        """Its id and the port; the id is empty: the request is for the server itself."""

    async def reach(self, sandbox_id: str, port: str) -> Live:
        """
        :raises ClientError: there is none, or the port is none
        """


class Tunnel(asyncio.StreamReaderProtocol):
    """The client's side of a connection, from its request on.

    :param reach: finds the sandbox
    :param others: makes the protocol of requests that name no sandbox; None: there are none
    :param options: those with which Uvicorn makes a protocol for WebSockets
    """

    def __init__(self, reach: Reach, others: Callable[..., asyncio.Protocol] | None, **options: Any) -> None:
        self._reader = asyncio.StreamReader(_PIECE)
        super().__init__(self._reader)
        self._reach = reach
        self._others = others
        self._options = options
        self._connections: set[Any] = options["server_state"].connections
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._connections.add(self)
        self._client = transport

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._work is not None:
            super().data_received(data)
            return
        request, asgi = _parsed(data)  # Uvicorn passes the whole head on, which it has checked
        sandbox_id, port = self._reach.named(asgi)
        if not sandbox_id and self._others is not None:
            self._leave(self._others(**self._options), data)
        else:
            self._work = asyncio.get_running_loop().create_task(self._run(sandbox_id, port, request))

    def _leave(self, other: asyncio.Protocol, data: bytes) -> None:
        """Make room for another protocol; Uvicorn sets this one after the first data."""
        self._connections.discard(self)
        other.connection_made(self._client)
        other.data_received(data)
        asyncio.get_running_loop().call_soon(self._client.set_protocol, other)

    def shutdown(self) -> None:
        """Uvicorn ends."""
        if self._work is not None:
            self._work.cancel()

    async def _run(self, sandbox_id: str, port: str, request: h11.Request) -> None:
        writer = asyncio.StreamWriter(self._client, self, self._reader, asyncio.get_running_loop())
        try:
            try:
                live = await self._find(sandbox_id, port)
                with _place(live):
                    await self._pass(await _upstream(live, sandbox_id, int(port), request), int(port), writer)
            except Exception as error:
                _refuse(writer, describe(error))
        finally:
            writer.close()

    async def _find(self, sandbox_id: str, port: str) -> Live:
        if not sandbox_id:
            raise ClientError(404, "there are no WebSockets of the server itself")
        if port in (envd.PORT, str(interpreter.PORT)):
            raise ClientError(400, f"port {port} has no WebSockets")
        return await self._reach.reach(sandbox_id, port)

    async def _pass(self, opened: tuple[proxy.Upstream, h11.Request], port: int, client: asyncio.StreamWriter) -> None:
        found, request = opened
        with contextlib.closing(found) as upstream:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await upstream.send(request)
                    await upstream.send(h11.EndOfMessage())
                    answer = await upstream.receive()
            except TimeoutError:
                raise ClientError(504, f"the server at port {port} of the sandbox did not answer") from None
            except (OSError, h11.ProtocolError) as error:
                raise proxy.no_answer(port, error) from error
            if isinstance(answer, h11.InformationalResponse) and answer.status_code == 101:
                client.write(_head(answer, list(answer.headers.raw_items())) + upstream.rest)
                _keep_alive(self._client)
                await _both(self._reader, client, upstream)
            elif isinstance(answer, h11.Response):
                # An answer of another kind ends the connection, whose next request could be for another sandbox
                client.write(_head(answer, [*proxy.end_to_end(answer), (b"connection", b"close")]))
                await _first(_copy_body(upstream, client), _until_end(self._reader))
            else:
                raise proxy.no_answer(port, "it is no answer to a request for a WebSocket")


async def _upstream(live: Live, sandbox_id: str, port: int, request: h11.Request) -> tuple[proxy.Upstream, h11.Request]:
    """A connection to the server inside, or to the node of the sandbox, and the request for it."""
    if address := live.handle.relay:
        return await relay.open_tunnel(address, sandbox_id, port, request)
    return await proxy.connect(live, port), request


@contextlib.contextmanager
def _place(live: Live) -> Iterator[None]:
    """One of the connections that a sandbox may have."""
    if live.tunnels >= MOST:
        raise ClientError(503, f"the sandbox has {MOST} WebSockets, its limit")
    live.tunnels += 1
    metrics.WEBSOCKETS.inc()
    try:
        yield
    finally:
        live.tunnels -= 1
        metrics.WEBSOCKETS.dec()


def _parsed(head: bytes) -> tuple[h11.Request, Request]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(head)
    found = connection.next_event()
    assert isinstance(found, h11.Request)
    path, _, query = found.target.partition(b"?")
    scope = {
        "type": "http",
        "method": found.method.decode(),
        "path": path.decode("latin-1"),
        "query_string": query,
        "headers": list(found.headers),
    }
    headers = [(name, value) for name, value in found.headers.raw_items() if name.decode("ascii") not in proxy.OURS]
    return h11.Request(method=found.method, target=found.target, headers=headers), Request(scope)


def _head(answer: h11.Response | h11.InformationalResponse, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (answer.status_code, bytes(answer.reason)), *(b"%s: %s" % each for each in headers)]
    return b"\r\n".join([*lines, b"", b""])


def _refuse(client: asyncio.StreamWriter, error: ClientError) -> None:
    body = json.dumps({"code": error.status, "message": error.message}).encode()
    try:
        phrase = HTTPStatus(error.status).phrase
    except ValueError:
        phrase = ""
    head = f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    client.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Notice a client whose host is gone: a WebSocket can be silent for long."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)


async def _copy_body(upstream: proxy.Upstream, client: asyncio.StreamWriter) -> None:
    async for data in upstream.body():
        client.write(data)
        await client.drain()


async def _until_end(reader: asyncio.StreamReader) -> None:
    """Until the client has left; what it sends is dropped."""
    while await reader.read(_PIECE):
        pass


async def _first(*works: Coroutine[None, None, None]) -> None:
    """Until one of them is done; the others end."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _both(reader: asyncio.StreamReader, client: asyncio.StreamWriter, upstream: proxy.Upstream) -> None:
    """Pass bytes on in both directions, until both sides have ended, or one has and the other has had its time."""
    loop = asyncio.get_running_loop()
    ways = [
        loop.create_task(_copy(reader, upstream.writer)),
        loop.create_task(_copy(upstream.reader, client)),
    ]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if all(each.result() for each in done):
            await asyncio.wait(ways, timeout=_REST_S)
    finally:
        for each in ways:
            each.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether *reader* has come to its end; otherwise one of the two is broken."""
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        if not writer.can_write_eof():
            return False
        writer.write_eof()
    except OSError:
        return False
    return True
