"""Makes processes for cores that can be stopped and continued, on the platform trap.

A nursery is a program of the platform that runs no program itself.  A core that is stopped leaves its RAM and an image
of its own variables.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence

from pyvmm_sentry.share import Saved
from pyvmm_sentry.streams import closed_error
from vmm import HostError

_REQUEST, _ANSWER = struct.Struct("III"), struct.Struct("i")
NOTHING, HERE, ELSEWHERE = range(3)
"""What a process continues. All of `host/nursery.c`."""
_COMPLETE = struct.Struct("Q")
"""The start of an image, see `host/image.c`."""


def is_complete(variables: int) -> bool:
    """Whether a core that has ended was stopped."""
    return any(os.pread(variables, _COMPLETE.size, 0))


class Nursery:
    """Makes processes for cores.  Any thread may call it.

    :param binary: the program of the platform
    :param words: its arguments
    :raises HostError: it cannot be started
    """

    def __init__(self, binary: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._errors = os.memfd_create("errors")
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [binary, "--nursery", str(theirs.fileno()), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                env=dict(environment),
                process_group=0,  # Ctrl-C is for this process, whose end ends the others
            )
        except OSError as error:
            os.close(self._errors)
            self._sock.close()
            raise HostError(f"{binary}: {error.strerror}", errno=error.errno or 0) from error
        finally:
            theirs.close()

    def make(self, fds: Sequence[int], devices: int, continues: int, *, below: bool = False) -> int:
        """A process, which is a child of this one; returns its number.

        :param fds: as `host/nursery.c` expects them
        :param devices: the same
        :param continues: :data:`NOTHING`; or :data:`HERE` or :data:`ELSEWHERE`, what the last descriptor is an image of
        :param below: one more descriptor is RAM of the stopped core, of which the new one's RAM is no copy
        :raises HostError: there is none
        """
        with self._lock:
            try:
                socket.send_fds(self._sock, [_REQUEST.pack(devices, continues, below)], fds)
                answer = self._sock.recv(_ANSWER.size)
            except OSError as error:
                answer = b""
                if self._sock.fileno() < 0:
                    raise closed_error() from error
            except BaseException:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # the next request would take the answer to this one
                raise
        if len(answer) < _ANSWER.size:
            said = os.pread(self._errors, 512, 0).decode(errors="replace").strip()
            raise HostError(said or "the process that makes others has ended", code="sentry-nursery")
        number = int(_ANSWER.unpack(answer)[0])
        if number < 0:
            raise HostError(f"a process cannot be made: {os.strerror(-number)}", errno=-number)
        return number

    def close(self) -> None:
        """End it; its processes go on.  A second call does nothing."""
        with self._lock:
            if self._sock.fileno() < 0:
                return
            self._sock.close()
            self._process.kill()
            self._process.wait()
            os.close(self._errors)


class Image:
    """A stopped core, which others continue.

    :param below: a descriptor of its RAM, by which nobody can write to that: those that continue it share RAM. -1: each
        has a copy
    :ivar variables: a descriptor
    """

    def __init__(self, saved: Saved, variables: int, *, below: int = -1) -> None:
        self.saved = saved
        self.variables = variables
        self.below = below

    def close(self) -> None:
        """Forget it.  Not twice."""
        os.close(self.saved.ram)
        os.close(self.variables)
        if self.below >= 0:
            os.close(self.below)
