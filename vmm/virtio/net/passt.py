"""A network of the guest's own, without privileges: ``passt`` connects it through sockets of the host.

passt is a child of this process that isolates itself. It sees only frames, over a stream socket that it inherits. When
this process ends in any way, the socket is closed and passt ends.

The guest gets the host's address and resolvers by DHCP; a resolver that listens on the host's loopback interface has
the address :data:`DNS`. It reaches what the host reaches, except other services on that interface.
"""

from __future__ import annotations

import errno
import posix
import struct
import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import variable
from vmm.native import lib
from vmm.virtio.net.device import NET_F_GUEST_CSUM, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.net import Publish

PROGRAM = "passt"
DNS = "169.254.1.1"
MTU = 65520
"""What passt is best with: with few, large frames."""
START_TIMEOUT = 60.0
"""Seconds until it is given up: on a busy host, and when it looks at many interfaces, it takes its time."""
NOTICE_AFTER = 5.0
"""Seconds after which a message names what the start waits for."""
END_TIMEOUT = 2.0
_CHILD_FD = 3
_INSTALL = "apt-get install passt; or --net tap=NAME, or --net none"
_PROBE = (
    b"\xff" * 6, b"\x08\x06", b"\x00\x01\x08\x00\x06\x04\x00\x01", bytes(4), bytes(6), bytes(map(int, DNS.split("."))),
)  # fmt: skip


def find_passt() -> str:
    """Where passt is.

    :raises ConfigError: nowhere
    """
    for folder in [*(variable("PATH") or "/usr/bin:/bin").split(":"), "/usr/bin", "/usr/local/bin"]:
        path = f"{folder}/{PROGRAM}"
        if folder and posix.access(path, posix.X_OK):
            return path
    raise ConfigError("user networking needs passt, which is not installed", code="net-passt-missing", hint=_INSTALL)


def _forwards(published: tuple[Publish, ...]) -> list[str]:
    arguments = []
    for port in published:
        where = f"{port.address}/" if port.address else ""
        arguments += ["-t" if port.protocol == "tcp" else "-u", f"{where}{port.host}:{port.guest}"]
    return arguments


def _check_port(port: Publish) -> None:
    """passt accepts a port that it got for one kind of IP address only; users of the other kind would be surprised.

    :raises ConfigError: another program uses the port
    """
    from vmm.faststart.builtin import socket

    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if port.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((port.address, port.host))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"publish: port {port.host}/{port.protocol} of the host is in use",
                code="net-publish",
                hint="another program listens there; publish another port",
            ) from error
    finally:
        sock.close()


class Passt(Backend):
    """A passt of its own.

    :param mac: the guest's address
    :param mtu: reported to the guest; 0: :data:`MTU`
    :raises ConfigError: passt is missing, or rejects its arguments: a port that is in use
    """

    kind = lib.NET_STREAM
    name = "user"
    identity = "user"
    features = NET_F_GUEST_CSUM

    def __init__(self, mac: bytes, published: tuple[Publish, ...] = (), mtu: int = 0) -> None:
        super().__init__()
        self.mtu = mtu or MTU
        self._pid = 0
        self._words = -1
        self._said = b""
        self._notice = 0.0
        for port in published:
            _check_port(port)
        command = [
            find_passt(), "--foreground", "--quiet", "--fd", str(_CHILD_FD), "--mtu", str(self.mtu),
            "--no-map-gw", "--dns-forward", DNS, *_forwards(published),
        ]  # fmt: skip
        try:
            self._spawn(command)
            self._await_ready(mac)
        except BaseException:
            self.close()
            raise

    def _spawn(self, command: list[str]) -> None:
        from vmm.faststart.builtin import socket

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._words, words = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        fd = ours.detach()
        self.fds.append(fd)
        posix.set_blocking(fd, False)
        actions = [
            (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDWR, 0),
            (posix.POSIX_SPAWN_DUP2, words, 2),
            (posix.POSIX_SPAWN_DUP2, 0, 1),
            (posix.POSIX_SPAWN_DUP2, theirs.fileno(), _CHILD_FD),
        ]
        try:
            # Keys of the terminal are for us, not for it
            self._pid = posix.posix_spawn(
                command[0], command, posix.environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=(13,)
            )
        except OSError as error:
            raise HostError(f"{command[0]}: {posix.strerror(error.errno or 0)}", code="net-passt") from error
        finally:
            theirs.close()
            posix.close(words)

    def _await_ready(self, mac: bytes) -> None:
        """Its answer to an ARP request proves that it runs and has all its ports."""
        to_all, kind, arp, nobody, unknown, target = _PROBE
        frame = to_all + mac + kind + arp + mac + nobody + unknown + target
        # By its descriptor: a signal's exception would end a socket object, and with it close what others close.
        fd = self.fds[0]
        deadline = time.monotonic() + START_TIMEOUT
        self._notice = time.monotonic() + min(NOTICE_AFTER, START_TIMEOUT)
        try:
            posix.write(fd, struct.pack(">I", len(frame)) + frame)
        except OSError:  # it has ended already
            pass
        while (answer := self._read_frame(fd, deadline))[12:14] != kind:
            if not answer:
                self._refused()

    def _read_frame(self, fd: int, deadline: float) -> bytes:
        """One frame; nothing at the end of the stream."""
        length = self._read(fd, 4, deadline)
        return self._read(fd, int.from_bytes(length, "big"), deadline) if length else b""

    def _read(self, fd: int, count: int, deadline: float) -> bytes:
        from select import POLLIN, poll

        waiter = poll()
        waiter.register(fd, POLLIN)
        data = b""
        while len(data) < count:
            now = time.monotonic()
            if not waiter.poll(max(0.0, (self._notice if now < self._notice < deadline else deadline) - now) * 1000):
                if now < self._notice < deadline:
                    _say_that_it_takes_long()
                    continue
                raise HostError(
                    f"passt does not answer after {START_TIMEOUT:g} s",
                    code="net-passt",
                    hint="the host is too busy, or passt hangs: run `passt --foreground` to see more",
                )
            try:
                piece = posix.read(fd, count - len(data))
            except OSError:
                return b""
            if not piece:
                return b""
            data += piece
        return data

    def _refused(self) -> None:
        words = self.obituary()
        in_use = "Address already in use" in words or "bind" in words.lower()
        raise ConfigError(
            f"passt ended at once: {words or 'without a word'}",
            code="net-passt",
            hint="another program listens on a published port" if in_use else "",
        )

    def obituary(self) -> str:
        self._said += _drain(self._words)
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return "; ".join(lines[-3:]) or "passt has ended"

    @property
    def pid(self) -> int:
        """Of passt; 0 after it was closed."""
        return self._pid

    def close(self) -> None:
        super().close()
        pid, self._pid = self._pid, 0
        if pid:
            _reap(pid)
        if self._words >= 0:
            posix.close(self._words)
            self._words = -1


def _say_that_it_takes_long() -> None:
    import logging

    logging.getLogger(__name__).warning("passt takes long to start; waiting for it, up to %g s", START_TIMEOUT)


def _drain(fd: int) -> bytes:
    try:
        return posix.read(fd, 1 << 16) if fd >= 0 else b""
    except BlockingIOError:
        return b""


def _reap(pid: int) -> None:
    """It ends by itself, since its socket is closed; a signal comes only if it does not."""
    from select import poll

    end = time.monotonic() + END_TIMEOUT
    while True:
        try:
            done, _ = posix.waitpid(pid, posix.WNOHANG)
        except ChildProcessError:  # another thread reaps all children
            return
        if done:
            return
        if time.monotonic() > end:
            try:
                posix.kill(pid, 9)
            except PermissionError:  # in a jail; it is not a child of this process then
                return
            posix.waitpid(pid, 0)
            return
        poll().poll(1)  # a millisecond; a jail has no clock_nanosleep(2)
