"""What the processes around a jailed machine have in common: how they start, and what they say to each other."""

from __future__ import annotations

import posix
import select
import struct

from vmm.errors import VmmError, as_answer, from_answer
from vmm.faststart.builtin import socket
from vmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATIENCE_S = 5
"""Seconds to wait for another process."""
REQUEST_MAX = 32 << 10
"""Bytes of a request between these processes."""
_FDS_MAX = 64
_ROOM = 256


def leave_others(kept: set[int], name: bytes) -> None:
    """In a forked child: leave the terminal, ignore the signals meant for the machine, close all descriptors except
    stderr and *kept*, and set the process name."""
    from vmm.faststart.builtin import signal

    posix.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    lib.thread_set_name(name)
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    for fd in (0, 1):
        posix.dup2(null, fd)
    last = 2
    for fd in (*sorted(kept), 1 << 30):
        posix.closerange(last + 1, fd)
        last = fd


def reserve_descriptors(kept: set[int]) -> None:
    """After :func:`leave_others`: enlarge the table of descriptors to what a machine needs. With one thread the kernel
    does that at once, and with several only after a grace period of RCU, ten milliseconds."""
    if max(kept) >= _ROOM - 1:
        return
    try:
        posix.dup2(0, _ROOM - 1, False)
        posix.close(_ROOM - 1)
    except OSError:
        pass  # so many are not allowed


def receive(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """The next message, and the descriptors that come with it; empty: the other end is closed."""
    data, rights, _, _ = sock.recvmsg(most, socket.CMSG_SPACE(_FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for _, _, each in rights:
        fds += struct.unpack(f"={len(each) // 4}i", each[: len(each) // 4 * 4])
    return data, fds


def answered(data: bytes) -> dict[str, Any]:
    """
    :raises VmmError: the answer was an error
    """
    import json

    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise from_answer(answer)
    return answer


def refusal_of(error: VmmError) -> bytes:
    """The answer that makes :func:`answered` raise it."""
    import json

    return json.dumps(as_answer(error)).encode()


def wait_for(pid: int, pidfd: int) -> None:
    """Wait a while for the end of a child, and close *pidfd*."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(PATIENCE_S * 1000):
        posix.waitpid(pid, 0)
    posix.close(pidfd)
