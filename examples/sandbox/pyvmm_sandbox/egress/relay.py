"""Connections of a sandbox: what each leads to, and the copying of its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_sandbox.egress import sniff
from pyvmm_sandbox.egress.names import LookUp, Names
from pyvmm_sandbox.egress.rules import Address, Network, plain

if TYPE_CHECKING:
    import ssl

    from pyvmm_sandbox.egress.authority import Authority
    from pyvmm_sandbox.egress.credentials import Credential

Service = Callable[[socket.socket], Coroutine[Any, Any, None]]

CONNECTIONS_MOST = 512
REFUSALS_MOST = 100
"""That are kept for the caller."""
CONNECT_S = 15.0
_PIECE = 64 << 10
_RESET = struct.pack("ii", 1, 0)
_ORIGINAL_DST = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST."""


class Refused(Exception):
    """The rules do not allow a connection."""


class Aim(NamedTuple):
    """Where a connection of the sandbox leads.

    :ivar name: of the host; empty: the sandbox has named an address
    :ivar address: that address, or the one that stands for the name
    :ivar reached: the address that the gateway has connected to; None: none yet
    """

    name: str
    address: Address
    port: int
    reached: Address | None = None

    def __str__(self) -> str:
        return f"{self.name or self.address}:{self.port}"


class Streams(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Gateway:
    """All that a sandbox reaches.

    :param look_up: the addresses of a name on the host
    :ivar rules: that hold now
    :ivar refusals: the last ones: seconds since 1970, what was refused, and why
    :ivar counts: of connections
    :ivar credentials: what its hosts get
    :ivar authority: of certificates for these hosts, or None
    :ivar trust: how real servers are verified, or None
    """

    def __init__(
        self,
        rules: Network,
        look_up: LookUp,
        credentials: Sequence[Credential] = (),
        authority: Authority | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self.names = Names(lambda: self.rules, self.refuse, look_up)
        self.refusals: deque[tuple[float, str, str]] = deque(maxlen=REFUSALS_MOST)
        self.counts = {"connections": 0, "refused": 0, "sent": 0, "received": 0}
        self.credentials, self.authority, self.trust = credentials, authority, trust
        self._tasks: dict[asyncio.Task[None], Aim | None] = {}

    # -- rules -------------------------------------------------------------------------------------------------------

    def refuse(self, what: str, why: str) -> None:
        """Note a refusal."""
        self.counts["refused"] += 1
        self.refusals.append((time.time(), what, why))

    def update(self, rules: Network) -> None:
        """Replace the rules; connections that they do not allow end."""
        self.rules = rules
        for task, aim in list(self._tasks.items()):
            if aim is not None and not (self._permits(aim) and self._permits_reached(aim)):
                self.refuse(str(aim), "the rules have changed")
                task.cancel()

    def _permits(self, aim: Aim) -> bool:
        if aim.name:
            return self.rules.permits_name(aim.name, aim.port)
        return self.rules.permits_address(aim.address, aim.port, is_host=_is_host(aim.address))

    def _permits_reached(self, aim: Aim) -> bool:
        """Whether a connection may stay with the address that its name had."""
        address = aim.reached
        return address is None or self.rules.permits_address(
            address, aim.port, named=bool(aim.name), is_host=_is_host(address)
        )

    async def addresses(self, aim: Aim) -> list[Address]:
        """Where a connection may be made to.

        :raises Refused: nowhere
        """
        if not self._permits(aim):
            raise Refused("no rule allows it")
        if not aim.name:
            return [aim.address]
        found = await self.names.resolve(aim.name)
        permitted = [
            each for each in found if self.rules.permits_address(each, aim.port, named=True, is_host=_is_host(each))
        ]
        if found and not permitted:
            raise Refused(f"it resolves to {found[0]}, which no rule allows")
        return permitted

    async def connect(self, aim: Aim, **options: Any) -> Streams:
        """A connection to a permitted address.

        :param options: of :func:`asyncio.open_connection`
        :raises Refused: there is none
        :raises OSError: it cannot be made
        """
        failure: OSError = ConnectionRefusedError(f"{aim.name} has no address")
        task = asyncio.current_task()
        for address in await self.addresses(aim):
            if task in self._tasks:
                self._tasks[task] = aim._replace(reached=address)
            try:
                async with asyncio.timeout(CONNECT_S):
                    return Streams(*await asyncio.open_connection(str(address), aim.port, limit=_PIECE, **options))
            except OSError as error:  # and a timeout
                failure = error
        raise failure

    # -- tasks -------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; if too much runs, nothing."""
        if len(self._tasks) >= CONNECTIONS_MOST:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.exception()  # a connection that fails is closed; the gateway continues

    async def accept(self, listener: socket.socket, serve: Service) -> None:
        """Serve the connections of a listener, for ever."""
        async for client in clients(listener):
            self.spawn(_closing(client, serve))

    # -- connections -------------------------------------------------------------------------------------------------

    async def serve_query(self, client: socket.socket) -> None:
        """A connection to a resolver."""
        from pyvmm_sandbox.egress.names import serve_stream

        guest = await accepted(client)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            async with asyncio.timeout(CONNECT_S):
                await serve_stream(self.names, *guest)
        guest.writer.close()

    async def serve(self, client: socket.socket) -> None:
        """A connection to anything else."""
        aim = Aim("", _destination(client), client.getsockname()[1])
        try:
            aim = self._aim(client)
            task = asyncio.current_task()
            assert task is not None
            self._tasks[task] = aim
            await self.addresses(aim)
            self.counts["connections"] += 1
            given = [each for each in self.credentials if _is_for(each, aim, is_https=True)]
            plainly = [each for each in self.credentials if _is_for(each, aim, is_https=False)]
            if given or plainly:
                from pyvmm_sandbox.egress.intercept import intercept

                await intercept(self, client, aim, given or plainly, is_https=bool(given))
            else:
                await self._relay(client, aim)
        except Refused as error:
            self.refuse(str(aim), str(error))
            _reset(client)
        except OSError:
            _reset(client)

    def _aim(self, client: socket.socket) -> Aim:
        """
        :raises Refused: nothing has that address
        """
        address, port = _destination(client), _port(client)
        name = self.names.name_of(address)
        if name == "":
            raise Refused("the address stands for no name")
        return Aim(name or "", address, port)

    async def _relay(self, client: socket.socket, aim: Aim) -> None:
        server = await self.connect(aim)
        guest = await accepted(client)
        await relay(guest, server, functools.partial(self._check_first, aim), self.counts)

    def _check_first(self, aim: Aim, data: bytes) -> bool:
        """Whether the first bytes of the sandbox can be sent; they are kept if not yet.

        :raises Refused: they name a host that the rules do not allow
        """
        try:
            found = sniff.names(data)
        except ValueError as error:
            raise Refused(str(error)) from error
        if found is None:
            return False
        for name in found.names:
            if aim.name and name != aim.name:
                raise Refused(f"it is for {name:.80}")
            is_free = not aim.name and self.rules.allows_address(aim.address, aim.port)
            if not aim.name and not is_free and self.rules.denies_name(name, aim.port):
                raise Refused(f"it is for {name:.80}, which a rule denies")
        return True


async def _closing(client: socket.socket, serve: Service) -> None:
    with client:
        await serve(client)


def _is_for(credential: Credential, aim: Aim, *, is_https: bool) -> bool:
    return bool(aim.name) and any(each.matches(aim.name, aim.port, is_https) for each in credential.targets)


async def clients(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """The connections of a listener, for ever.  Unlike asyncio's servers, this does not call listen()."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            client, _ = await loop.sock_accept(listener)
        except OSError:
            await asyncio.sleep(0.1)  # no descriptor is left: some will be closed
            continue
        client.setblocking(False)
        yield client


async def accepted(client: socket.socket, **options: Any) -> Streams:
    """The streams of a connection that was accepted.

    :param options: of ``connect_accepted_socket``
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_PIECE, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, client.dup(), **options)
    return Streams(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


async def relay(guest: Streams, server: Streams, check: Callable[[bytes], bool] | None, counts: dict[str, int]) -> None:
    """Copy both directions until both have ended.

    :param check: see :meth:`Gateway._check_first`; None: there is nothing to check
    :raises Refused: of *check*
    :raises OSError: one of the two has ended
    """
    tasks = [
        asyncio.ensure_future(_copy(guest.reader, server.writer, check, counts, "sent")),
        asyncio.ensure_future(_copy(server.reader, guest.writer, None, counts, "received")),
    ]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in (guest, server):
            each.writer.transport.abort()
        raise
    guest.writer.close()
    server.writer.close()


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    check: Callable[[bytes], bool] | None,
    counts: dict[str, int],
    count: str,
) -> None:
    kept = b""
    while data := await reader.read(_PIECE):
        if check is not None:
            kept += data
            if not check(kept):
                continue
            data, check = kept, None
        counts[count] += len(data)
        writer.write(data)
        await writer.drain()
    if check is not None and kept:  # some servers take the end of the data for that of a request's head
        check(kept + b"\r\n\r\n")
        writer.write(kept)
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()  # TLS: the end of one direction is that of both


def _name_of_peer(client: socket.socket) -> bytes:
    level = socket.IPPROTO_IPV6 if client.family == socket.AF_INET6 else socket.IPPROTO_IP
    return client.getsockopt(level, _ORIGINAL_DST, 28)


def _destination(client: socket.socket) -> Address:
    """The address that the sandbox has connected to."""
    found = _name_of_peer(client)
    if client.family == socket.AF_INET6:
        return plain(ipaddress.IPv6Address(found[8:24]))
    return ipaddress.IPv4Address(found[4:8])


def _port(client: socket.socket) -> int:
    return int.from_bytes(_name_of_peer(client)[2:4], "big")


def _is_host(address: Address) -> bool:
    """Whether an address belongs to the host: the kernel selects it as the source of packets to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address), 9))
        except OSError:  # no route leads there
            return False
        return bool(sock.getsockname()[0] == str(address))


def _reset(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
