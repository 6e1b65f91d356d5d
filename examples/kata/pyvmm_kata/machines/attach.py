"""``pyvmm attach``: the streams of a container of ``pyvmm run -d``."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.machines import keeper
from pyvmm_kata.machines.options import FAILED, add_name, attempt, new_parser

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.machines.records import Machine

SUMMARY = "connect to the streams of a container of `pyvmm run -d`"
_DETACH = b"\x10\x11"
"""Ctrl-P, Ctrl-Q."""
_CHUNK = 32 << 10


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser(
        "attach",
        "Print the output of a container of `pyvmm run -d` as it comes, and pass standard input and signals on. "
        "On a terminal, Ctrl-P Ctrl-Q leaves it; without one, a second Ctrl-C does.",
        json=False,
    )
    made.add_argument("--no-stdin", action="store_true", help="pass standard input on to nobody")
    add_name(made)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns the container's exit status, 0 if the user has left it."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import records

    def attach() -> int:
        found = records.find(options.root, options.name)
        found.expect("running", "paused")
        with _connect(found) as sock:
            return _Session(found, sock, reads=not options.no_stdin).run()

    return attempt(attach)


def _connect(found: Machine) -> socket.socket:
    """
    :raises ConfigError: nothing keeps its streams
    """
    place = os.open(found.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{place}/{keeper.SOCKET}")
    except OSError as error:
        sock.close()
        hint = "containers of `pyvmm run -d` have some; pyvmm exec runs a program in any"
        raise ConfigError(f"{found.name} has no streams to attach to", code="container-attach", hint=hint) from error
    finally:
        os.close(place)
    return sock


class _Session:
    """A connection to a container's streams, until the container ends or the user detaches."""

    def __init__(self, found: Machine, sock: socket.socket, *, reads: bool) -> None:
        self._machine = found
        self._sock = sock
        self._reads = reads
        self._last = b""
        self._interrupted = False
        self._left = False

    def run(self) -> int:
        """Copy both ways; returns the exit status."""
        from pyvmm_kata import state
        from pyvmm_kata.oci.console import RawTerminal, follow

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._forward)
        if not self._reads or not state.read(self._machine.folder)["process"].get("terminal") or not os.isatty(0):
            return self._pass()
        with RawTerminal(0):
            follow(0, lambda rows, columns: self._call("resize", rows=rows, columns=columns), take=False)
            return self._pass(terminal=True)

    def _forward(self, number: int, _frame: Any) -> None:
        self._left = self._interrupted and number == signal.SIGINT
        self._interrupted |= number == signal.SIGINT
        self._call("kill", signal=number, all=False)

    def _call(self, op: str, **arguments: int | bool) -> None:
        from pyvmm_kata.protocol import control

        try:
            control.call(self._machine.folder, op, **arguments)
        except VmmError:
            pass  # it has ended

    def _pass(self, *, terminal: bool = False) -> int:
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        if self._reads:
            waiting.register(0, select.POLLIN)
        while not self._left:
            for fd, _ in waiting.poll(1000):  # a signal alone does not end it
                if fd == 0:
                    if not self._type(terminal=terminal):
                        waiting.unregister(0)
                    continue
                status = self._print()
                if status is not None:
                    return status
        return 0

    def _type(self, *, terminal: bool) -> bool:
        """Copy available input to the container; returns False at the end of the input."""
        data = os.read(0, _CHUNK)
        if terminal and _DETACH in self._last + data:
            self._left = True
        self._last = data[-1:]
        if data and not self._left:
            try:
                self._sock.sendall(data)
            except OSError:
                return False  # it has ended
        return bool(data)

    def _print(self) -> int | None:
        packet = self._sock.recv(_CHUNK + 1)
        if not packet:
            if self._machine.wait(0):
                return FAILED  # its keeper was killed, too
            raise HostError(f"{self._machine.name}: its output cannot be read any more", code="container-attach")
        if packet[0] == keeper.END:
            return int(packet[1:])
        out = sys.stdout if packet[0] == 1 else sys.stderr
        out.buffer.write(packet[1:])
        out.flush()
        return None
