"""HTTP/1.1 of a sandbox to hosts that get its secrets: the gateway is the server, and the client of the real one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import h11

from pyvmm_sandbox.egress.credentials import Replacer
from pyvmm_sandbox.egress.relay import Refused, accepted, relay
from pyvmm_sandbox.egress.sniff import bare

if TYPE_CHECKING:
    import socket

    from pyvmm_sandbox.egress.credentials import Credential
    from pyvmm_sandbox.egress.relay import Aim, Gateway, Streams

HEAD_MOST = 256 << 10
_PIECE = 64 << 10
_HANDSHAKE_S = 15.0
_ECHOES = (b"TRACE", b"TRACK")
"""Methods whose answer has the request in its body (RFC 9110, 9.3.8; the second is Microsoft's)."""
_MISDIRECTED, _BAD, _FORBIDDEN, _BAD_GATEWAY = 421, 400, 403, 502


class _Answer(Exception):
    """The gateway answers itself, and closes the connection.

    :ivar status: of HTTP
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _End:
    """One of the two connections.

    :param counts: the gateway's; *count* is the one of what is sent here
    """

    def __init__(self, streams: Streams, role: Any, counts: dict[str, int], count: str) -> None:
        self.streams = streams
        self.http = h11.Connection(role, max_incomplete_event_size=HEAD_MOST)
        self._counts, self._count = counts, count

    async def next(self) -> Any:
        """The next event.

        :raises h11.RemoteProtocolError: it is no HTTP
        """
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.streams.reader.read(_PIECE))
        return event

    async def send(self, event: Any) -> None:
        """Send an event."""
        data = self.http.send(event)
        if data:
            self._counts[self._count] += len(data)
            self.streams.writer.write(data)
            await self.streams.writer.drain()


async def intercept(
    gateway: Gateway, client: socket.socket, aim: Aim, credentials: Sequence[Credential], *, is_https: bool
) -> None:
    """Serve a connection, with the secrets that its host gets.

    :raises Refused: see :meth:`Gateway.connect`
    :raises OSError: it has ended
    """
    options: dict[str, Any] = {}
    if is_https:
        assert gateway.authority is not None
        options = {"ssl": gateway.authority.context(aim.name), "ssl_handshake_timeout": _HANDSHAKE_S}
    guest = _End(await accepted(client, **options), h11.SERVER, gateway.counts, "received")
    server: _End | None = None
    try:
        with contextlib.suppress(h11.RemoteProtocolError, h11.LocalProtocolError):
            while isinstance(request := await guest.next(), h11.Request):
                try:
                    changed = _changed(request, aim, Replacer(credentials))
                    if server is not None and server.streams.reader.at_eof():  # it has closed an idle connection
                        server.streams.writer.close()
                        server = None
                    if server is None:
                        server = _End(await _connect(gateway, aim, is_https), h11.CLIENT, gateway.counts, "sent")
                except _Answer as error:
                    gateway.refuse(str(aim), str(error))
                    await _answer(guest, error)
                    return
                if not await _exchange(guest, server, changed, Replacer(credentials)):
                    return
    finally:
        for end in (guest, server):
            if end is not None:
                end.streams.writer.close()


def _changed(request: Any, aim: Aim, replacer: Replacer) -> Any:
    """A request with secrets.

    One with two lengths is refused (RFC 9112, 6.3): a server that uses the other one takes what the sandbox has sent as
    a body for a request, perhaps to another host of that server, and the next head, with the secret, for its body.

    :raises _Answer: it is not for this host, or no request that can be passed on
    """
    hosts = [bare(value.decode("latin-1")) for name, value in request.headers if name == b"host"]
    if hosts != [aim.name]:
        raise _Answer(_MISDIRECTED, f"the request is for {hosts[0] if hosts else 'no host'!s:.80}")
    if request.method == b"CONNECT" or not request.target.startswith((b"/", b"*")):
        raise _Answer(_BAD, "the request is one for a proxy")
    if request.method.upper() in _ECHOES:
        raise _Answer(_BAD, f"the answer to {request.method.decode()} repeats the secret")
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
        raise _Answer(_BAD, "the request has both Content-Length and Transfer-Encoding")
    headers = replacer.headers((name, value) for name, value in request.headers.raw_items())
    return h11.Request(method=request.method, target=replacer.target(request.target), headers=headers)


async def _connect(gateway: Gateway, aim: Aim, is_https: bool) -> Streams:
    """
    :raises _Answer: the server cannot be reached, or is another one
    """
    options: dict[str, Any] = {"ssl": gateway.trust, "server_hostname": aim.name} if is_https else {}
    try:
        return await gateway.connect(aim, **options)
    except Refused as error:
        raise _Answer(_FORBIDDEN, str(error)) from error
    except ssl.SSLCertVerificationError as error:
        raise _Answer(_BAD_GATEWAY, f"its certificate is wrong: {error.verify_message}") from error
    except OSError as error:
        raise _Answer(_BAD_GATEWAY, f"it cannot be reached: {error}") from error


async def _answer(guest: _End, error: _Answer) -> None:
    text = f"pyvmm: {error}\n".encode()
    headers = [("content-length", str(len(text))), ("content-type", "text/plain"), ("connection", "close")]
    await guest.send(h11.Response(status_code=error.status, headers=headers))
    await guest.send(h11.Data(data=text))
    await guest.send(h11.EndOfMessage())


async def _exchange(guest: _End, server: _End, request: Any, replacer: Replacer) -> bool:
    """Pass on a request and its answer; whether another one can follow."""
    await server.send(request)
    sending = asyncio.ensure_future(_pass(guest, server, lambda event: event))
    try:
        final = await _pass_answer(guest, server, replacer)
        if final is not None and final.status_code == 101:
            await sending
            await _switch(guest, server)
            return False
        if not sending.done() and guest.http.their_state is h11.SEND_BODY:
            return False  # the answer came before the end of the request
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    if any(state is not h11.DONE for end in (guest, server) for state in (end.http.our_state, end.http.their_state)):
        return False
    guest.http.start_next_cycle()
    server.http.start_next_cycle()
    return True


async def _pass(source: _End, target: _End, change: Callable[[Any], Any]) -> None:
    """Pass on a message's body."""
    while isinstance(event := await source.next(), h11.Data):
        await target.send(change(event))
    if isinstance(event, h11.EndOfMessage):
        await target.send(change(event))


async def _pass_answer(guest: _End, server: _End, replacer: Replacer) -> Any:
    """The head of the answer, after all of it was passed on."""
    while isinstance(event := await server.next(), h11.InformationalResponse):
        await guest.send(_redacted(event, replacer))
        if event.status_code == 101:
            return event
    if not isinstance(event, h11.Response):
        raise ConnectionResetError("the server has closed the connection")
    await guest.send(_redacted(event, replacer))
    await _pass(server, guest, lambda other: _redacted_end(other, replacer))
    return event


def _redacted(event: Any, replacer: Replacer) -> Any:
    headers = replacer.answer(event.headers.raw_items())
    return type(event)(status_code=event.status_code, headers=headers, reason=event.reason)


def _redacted_end(event: Any, replacer: Replacer) -> Any:
    if isinstance(event, h11.EndOfMessage):
        return h11.EndOfMessage(headers=replacer.answer(event.headers.raw_items()))
    return event


async def _switch(guest: _End, server: _End) -> None:
    """Of a WebSocket: what follows is no HTTP, and is passed on as it is."""
    for source, target in ((guest, server), (server, guest)):
        target.streams.writer.write(source.http.trailing_data[0])
    await relay(guest.streams, server.streams, None, guest._counts)
