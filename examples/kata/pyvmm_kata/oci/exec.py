"""``pyvmm-oci exec ID [COMMAND]``: runs one more program in a running container.

A process of the host runs until the program has ended. It has the program's terminal, ``--pid-file`` gets its pid, and
it exits with the program's status. It is this process, or with ``--detach`` a child, which a subreaper can wait for.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

from pyvmm_kata import state
from pyvmm_kata.bundle.bundle import read_json
from pyvmm_kata.bundle.checks import check_id, check_process
from pyvmm_kata.errors import ConfigError, VmmError
from pyvmm_kata.oci.exec_process import ALIASES, OPTIONS, process_from
from pyvmm_kata.oci.options import parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

FAILED = 255


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the program's exit status, 0 with ``--detach``."""
    options, rest = parse(arguments, OPTIONS, ALIASES, "exec")
    if not rest:
        raise ConfigError("exec: the container's id is missing", code="oci-usage")
    folder = context.folder(check_id(rest[0]))
    known = state.read(folder)
    if known["status"] != "running":
        raise ConfigError(f"cannot exec in a container that is {known['status']}", code="container-state")
    if options["preserve-fds"]:
        raise ConfigError("exec: --preserve-fds: a descriptor of the host cannot be given to a virtual machine")
    process = read_json(options["process"]) if options["process"] else process_from(known["process"], options, rest[1:])
    if options["tty"]:
        process["terminal"] = True
    check_process(process, source=options["process"] or "exec")
    if options["console-socket"] and not process.get("terminal"):
        raise ConfigError("exec: --console-socket needs a terminal", code="oci-console", hint="--tty")
    if not options["detach"]:
        if options["pid-file"]:
            state.write_pid(options["pid-file"], os.getpid())
        return Attendant(folder, process, options["console-socket"]).run()
    return _detach(folder, process, options)


def _detach(folder: str, process: Json, options: Json) -> int:
    def attend(sock: socket.socket) -> int:
        return Attendant(folder, process, options["console-socket"], sock).run()

    def agree(channel: control.Channel, pid: int) -> None:
        channel.answer()
        if options["pid-file"]:
            state.write_pid(options["pid-file"], pid)

    control.fork("the new process", attend, agree)
    return 0


class Attendant:
    """The process of the host that stays with a process of the guest.

    :param caller: called when it runs, or with the error
    """

    def __init__(self, folder: str, process: Json, console_socket: str, caller: socket.socket | None = None) -> None:
        self._folder = folder
        self._process = process
        self._console_socket = console_socket
        self._caller = control.Channel(caller, "exec") if caller is not None else None
        self._channel: control.Channel | None = None

    def run(self) -> int:
        """Run it to its end; returns its exit status."""
        try:
            self._start()
        except VmmError as error:
            if self._caller is None:
                raise
            self._caller.send(control.refusal(error))
            return FAILED
        if self._caller is not None:
            self._caller.send({})
            self._caller.close()
        assert self._channel is not None
        end = self._channel.receive(None)
        if end is None:
            return FAILED
        return int(end.get("exit", FAILED))

    def _start(self) -> None:
        from pyvmm_kata.oci.console import follow, open_console

        terminal = bool(self._process.get("terminal"))
        channel = self._channel = control.connect(self._folder)
        console = open_console(self._console_socket) if self._console_socket else -1
        fds = (console,) if console >= 0 else (0, 1) if terminal else (0, 1, 2)
        channel.request({"op": "exec", "process": self._process}, fds)
        channel.answer()
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
            signal.signal(getattr(signal, name), self._forward)
        if console >= 0:
            follow(console, self._resize, take=True)
            _leave_standard_descriptors()
        elif terminal:
            self._use_own_terminal()
        elif self._caller is not None:
            _leave_standard_descriptors()

    def _use_own_terminal(self) -> None:
        import atexit

        from pyvmm_kata.oci.console import RawTerminal, follow

        raw = RawTerminal(0)
        raw.__enter__()
        atexit.register(raw.__exit__)
        follow(0, self._resize, take=False)

    def _forward(self, number: int, _frame: Any) -> None:
        self._tell({"signal": number})

    def _resize(self, rows: int, columns: int) -> None:
        self._tell({"rows": rows, "columns": columns})

    def _tell(self, message: Json) -> None:
        channel = self._channel
        if channel is not None:
            threading.Thread(target=_send, args=(channel, message), daemon=True).start()


def _send(channel: control.Channel, message: Json) -> None:
    try:
        channel.send(message)
    except OSError:
        pass  # the process has ended


def _leave_standard_descriptors() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
