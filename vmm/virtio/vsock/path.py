"""Unix sockets at the user's paths: made where nothing exists, removed only while they are ours.

Anything at a path may belong to somebody else: a file, a link, the socket of a running program. Nothing of that is
followed, connected through or deleted. Only the socket of a program that has ended (nobody listens, it belongs to us)
is replaced.
"""

from __future__ import annotations

import errno
import os

from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.vsock import VsockConfig

STREAM: int = socket.SOCK_STREAM
SEQPACKET: int = socket.SOCK_SEQPACKET
SEQPACKET_SUFFIX = ".seqpacket"
PATH_MAX = 107
"""Bytes of a unix socket's path, its end left out."""
_S_IFMT, _S_IFSOCK = 0o170000, 0o140000
_BACKLOG = 4096
_Id = tuple[int, int]


def fits(uds: str) -> bool:
    """Check that all names derived from *uds* are short enough for a unix socket."""
    return len(os.fsencode(uds)) + len("_4294967295") <= PATH_MAX


def check_path(config: VsockConfig) -> None:
    """Check that the names derived from ``uds`` are free, and that its directory exists.

    :raises ConfigError: no
    """
    if not fits(config.uds):
        raise ConfigError(
            f"vsock: uds={config.uds} is too long: with _<port> behind it, {PATH_MAX} bytes can be",
            code="vsock-uds",
            hint="a unix socket has a short path: use a directory like /run or /tmp, or a relative path",
        )
    if os.path.basename(config.uds) in ("", ".", ".."):
        raise ConfigError(f"vsock: uds={config.uds} names no file", code="vsock-uds")


def port_path(uds: str, port: int) -> str:
    """The path at which a guest's connection to *port* of the host arrives."""
    if not 0 <= port < 0xFFFF_FFFF:
        raise ConfigError(f"vsock: port {port} is not 0 to 4294967294", code="vsock-port")
    return f"{uds}_{port}"


def bind(sock: socket.socket, path: str) -> _Id:
    """Bind *sock* to *path*; the socket of a program that has ended is replaced.

    :returns: the argument for :func:`unlink`
    :raises ConfigError: something exists there, or nothing can be made there
    """
    try:
        os.fchmod(sock.fileno(), 0o600)  # what the file gets, from its first moment on, whatever the umask
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path, sock.type)
            sock.bind(path)
        return _identity(os.lstat(path))
    except OSError as error:
        raise ConfigError(
            f"vsock: cannot make the socket {path}: {error.strerror}",
            code="vsock-uds",
            hint="the directory must be there, and yours to write",
        ) from error


def listen(path: str, kind: int) -> Listening:
    """A listening socket at *path*.

    :raises ConfigError: see :func:`bind`
    """
    try:
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise HostError(f"vsock: {error.strerror}", code="vsock-socket", errno=error.errno or 0) from error
    try:
        identity = bind(sock, path)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listening(sock, os.path.abspath(path), identity)


class Listening:
    """A listening socket and its path; :meth:`close` removes the path if it is still this socket's."""

    def __init__(self, sock: socket.socket, path: str, identity: _Id) -> None:
        self.sock = sock
        self.path = path
        self._identity: _Id | None = identity

    def close(self) -> None:
        """Close it.  A second call does nothing."""
        if self.sock.fileno() >= 0:
            if self._identity is not None:
                unlink(self.path, self._identity)
            self.sock.close()

    def give_name(self) -> tuple[str, _Id]:
        """The arguments for :func:`unlink`, for the process that removes the path from now on."""
        assert self._identity is not None
        identity, self._identity = self._identity, None
        return self.path, identity


def unlink(path: str, identity: _Id) -> None:
    """Remove *path* unless it is another file by now."""
    try:
        if _identity(os.lstat(path)) == identity:
            os.unlink(path)
    except OSError:
        pass


def _identity(found: os.stat_result) -> _Id:
    return found.st_dev, found.st_ino


def _remove_stale(path: str, kind: int) -> None:
    found = os.lstat(path)
    if found.st_mode & _S_IFMT != _S_IFSOCK:
        raise ConfigError(
            f"vsock: {path} exists and is not a socket", code="vsock-uds-exists", hint="name another path, or remove it"
        )
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"vsock: the socket {path} belongs to another user ({found.st_uid})",
            code="vsock-uds-exists",
            hint="name another path",
        )
    if _is_alive(path, kind):
        raise ConfigError(
            f"vsock: another program listens at {path}",
            code="vsock-uds-in-use",
            hint="every machine needs a uds= of its own",
        )
    # Who starts at the same time has perhaps replaced it meanwhile: take it away first, look what it is, then delete
    aside = f"{path[: PATH_MAX - 17]}.{os.urandom(8).hex()}"
    os.rename(path, aside)
    if _identity(os.lstat(aside)) != _identity(found):
        os.link(aside, path)
        os.unlink(aside)
        raise ConfigError(f"vsock: another program listens at {path}", code="vsock-uds-in-use")
    os.unlink(aside)


def _is_alive(path: str, kind: int) -> bool:
    probe = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except OSError as error:
        # EAGAIN: a full backlog; EPROTOTYPE: a socket of another kind
        return error.errno != errno.ECONNREFUSED
    finally:
        probe.close()
    return True
