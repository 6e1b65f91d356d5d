"""The process of a gateway.  It gets its rules and secrets by a socket, as lines of JSON, and answers each line.

It begins as the caller's user, to make the namespace and to start its resolver, and then drops all rights.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from pyvmm_sandbox.egress import names, namespace
from pyvmm_sandbox.egress.credentials import Credential
from pyvmm_sandbox.egress.relay import CONNECTIONS_MOST, Gateway, clients
from pyvmm_sandbox.egress.resolver import Resolver, start
from pyvmm_sandbox.egress.rules import Network
from vmm import VmmError, jail_gateway

CONTROL, CERTIFICATES = "control", "certificates.pem"
LINE_MOST = 8 << 20
_MEMORY = 1 << 30
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def main() -> None:
    """
    usage: python -c ... DESCRIPTOR FOLDER
    """
    if os.fork():
        os._exit(0)
    connection, folder = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        resolver = Resolver(start())  # before there are secrets
        with connection.makefile("rb") as lines:
            wanted = json.loads(lines.readline(LINE_MOST))
        sockets = namespace.make()
        gateway = _gateway(wanted, folder, resolver)
        control = _control(folder)
        runner = asyncio.Runner()
        runner.get_loop()
        _drop_rights(gateway)
    except Exception as error:
        answer = {"error": str(error), "hint": error.hint if isinstance(error, VmmError) else ""}
        connection.sendall(json.dumps(answer).encode() + b"\n")
        return
    try:
        with contextlib.suppress(asyncio.CancelledError):
            runner.run(_serve(gateway, sockets, control, connection, resolver))
    finally:
        os._exit(0)


def _gateway(wanted: dict[str, Any], folder: str, resolver: Resolver) -> Gateway:
    credentials = [Credential.from_json(each) for each in wanted["credentials"]]
    secure = [target.name for each in credentials for target in each.targets if target.is_https]
    authority = verifying = None
    if secure:
        from pyvmm_sandbox.egress.authority import Authority, trust

        authority, verifying = Authority(secure), trust()  # now: files may be closed to the new user
        with open(os.path.join(folder, CERTIFICATES), "wb") as file:
            file.write(_bundle() + authority.certificate())
        os.chmod(file.name, 0o644)
    if credentials:
        import pyvmm_sandbox.egress.intercept  # noqa: F401  # likewise
    return Gateway(Network(**wanted["rules"]), resolver, credentials, authority, verifying)


def _bundle() -> bytes:
    """The authorities that the host trusts."""
    import ssl

    for path in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
        if path and os.path.exists(path):
            with open(path, "rb") as file:
                return file.read().rstrip(b"\n") + b"\n"
    return b""


def _control(folder: str) -> socket.socket:
    """Listen on the control socket of the library.  A path below /proc/self/fd fits into ``sun_path``."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        made.bind(f"/proc/self/fd/{place}/{CONTROL}")
    finally:
        os.umask(mask)
        os.close(place)
    made.listen(16)
    made.setblocking(False)
    return made


def _drop_rights(gateway: Gateway) -> None:
    """Its memory has secrets, and it reads what the sandbox sends.

    :raises HostError: the host refuses
    """
    for name in ("idna", "ascii", "latin-1"):
        codecs.lookup(name)  # Python looks for the module of a codec when it is first used
    if gateway.authority is not None:
        gateway.authority.context("pyvmm.invalid")  # what that needs is mapped now
    most = 4 * CONNECTIONS_MOST + 256
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    fd = jail_gateway(most)
    if gateway.authority is not None:
        gateway.authority.use_file(fd, "/scratch")


async def _serve(
    gateway: Gateway,
    sockets: namespace.Sockets,
    control: socket.socket,
    connection: socket.socket,
    resolver: Resolver,
) -> None:
    loop = asyncio.get_running_loop()
    resolver.attach()
    this = asyncio.current_task()
    assert this is not None
    for listener in sockets.queries:
        await loop.create_datagram_endpoint(lambda: names.Datagrams(gateway.names, gateway.spawn), sock=listener)
    tasks = [asyncio.ensure_future(gateway.accept(each, gateway.serve)) for each in sockets.streams]
    tasks += [asyncio.ensure_future(gateway.accept(each, gateway.serve_query)) for each in sockets.query_streams]
    caller = _Caller(gateway, this.cancel)
    tasks.append(asyncio.ensure_future(_accept_callers(control, caller)))
    connection.sendall(json.dumps({"pid": os.getpid(), "namespace": sockets.namespace}).encode() + b"\n")
    connection.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_MOST)
    await caller.serve(reader, writer)
    if not caller.follows:
        return  # the library has ended before there was a sandbox
    await asyncio.gather(*tasks)


async def _accept_callers(control: socket.socket, caller: _Caller) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    async for client in clients(control):
        tasks.add(task := loop.create_task(_serve_caller(client, caller)))
        task.add_done_callback(tasks.discard)


async def _serve_caller(client: socket.socket, caller: _Caller) -> None:
    await caller.serve(*await asyncio.open_unix_connection(sock=client, limit=LINE_MOST))


class _Caller:
    """Answers the library.

    :param end: ends this process
    """

    def __init__(self, gateway: Gateway, end: Any) -> None:
        self._gateway, self._end = gateway, end
        self.follows = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection."""
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                try:
                    answer = self._answer(json.loads(line))
                except VmmError as error:
                    answer = {"error": str(error), "hint": error.hint}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    def _answer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if "rules" in wanted:
            self._gateway.update(Network(**wanted["rules"]))
        if "follow" in wanted:
            self._follow(int(wanted["follow"]))
        rules = self._gateway.rules
        return {
            "pid": os.getpid(),
            "rules": {"allow": rules.allow, "deny": rules.deny, "default": rules.default},
            "refusals": list(self._gateway.refusals),
            "counts": self._gateway.counts,
        }

    def _follow(self, pid: int) -> None:
        """End with that process."""
        self.follows = True
        try:
            fd = os.pidfd_open(pid)
        except OSError:  # it has ended
            self._end()
            return
        asyncio.get_running_loop().add_reader(fd, self._end)
