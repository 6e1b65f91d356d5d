"""Starting the process of a machine: ``pyvmm isolated``."""

from __future__ import annotations

import os
import sys

from vmm.faststart.thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""Where this package is, for a child that must be the same, however it was found.  Found out here, since whoever makes
children may look at no links later."""


def program(*fds: int) -> list[str]:
    """``pyvmm isolated FD...``: with this interpreter, from a process image if possible."""
    beside = os.path.join(os.path.dirname(sys.executable), "pyvmm")
    command = [beside]
    if not os.access(beside, os.X_OK):
        begin = f"import sys; sys.path[:] = {sys.path!r}; from vmm.cli.entry import begin; sys.exit(begin())"
        command = [sys.executable, "-IS", "-c", begin]
    return [*command, "isolated", *map(str, fds)]


def spawn(fd: int) -> Popen[bytes]:
    """Run :func:`program` with the descriptor *fd*.

    :raises OSError: it cannot be run
    """
    import subprocess

    return subprocess.Popen(
        program(fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(fd,),
        start_new_session=True,
    )


class Process:
    """A child of this process, with the methods of a Popen that :class:`_Child` needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = allocate_lock()
        self._status: int | None = None

    def wait(self, timeout: float | None) -> int:
        """Its exit status, once it has ended, as of a Popen.

        :param timeout: in seconds; None: for ever
        :raises TimeoutError: it has not
        """
        import select

        with self._lock:
            if self._status is None and timeout is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            elif self._status is None:
                assert timeout is not None
                pidfd = os.pidfd_open(self.pid)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                has_ended = poll.poll(timeout * 1000)
                os.close(pidfd)
                if not has_ended:
                    raise TimeoutError(f"process {self.pid} has not ended")
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status
