"""A process that runs machines' processes, for one that may run no program."""

from __future__ import annotations

import os
import posix
import struct

from vmm.faststart.builtin import socket
from vmm.faststart.thread import allocate_lock
from vmm.native import ffi, lib
from vmm.processes.helpers import leave_others
from vmm.processes.spawn import Process, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.processes.parent import Parent

_RUN_FD, _PARENT_FD = 3, 4
"""The numbers of the descriptors of a program that a :class:`Runner` runs: its socket, and the record of its
parent."""
_NO_PROGRAM = struct.pack("=2i", 0, 32)  # EPIPE: it has ended


class Runner:
    """A process that runs the programs of machines on behalf of one that may run no programs, and makes no other
    process. It has the user's files, accepts a byte and a descriptor, and ends with its parent. The programs that it
    runs make children of *parent*, and no other machine."""

    def __init__(self, parent: Parent) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._lock = allocate_lock()
        if posix.fork() == 0:
            try:
                from vmm.processes.jail.restrict import restrict_helper

                words = [ffi.new("char[]", os.fsencode(word)) for word in program(_RUN_FD, _PARENT_FD)]
                told = parent.write()
                leave_others({theirs.fileno(), told}, b"pyvmm-runner")
                restrict_helper()
                lib.spawn_serve(theirs.fileno(), told, ffi.new("char *[]", [*words, ffi.NULL]))
            finally:
                posix._exit(0)
        theirs.close()

    def run(self, fd: int) -> Process:
        """As *run* of :meth:`vmm.processes.isolated.IsolatedMachine.of_fork`.

        :raises OSError: it cannot be run
        """

        with self._lock:
            rights = struct.pack("=i", fd)
            self._sock.sendmsg([b"r"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            pid, error = struct.unpack("=2i", self._sock.recv(8) or _NO_PROGRAM)
        if error:
            if pid > 0:
                posix.waitpid(pid, 0)
            raise OSError(error, os.strerror(error))
        return Process(pid)
