"""``pyvmm-oci run ID``: ``create``, ``start``, wait for the end, ``delete``.

When it returns, no command finds the container any more, and the folder of its state is gone. The monitor may still
close its machine; a ``create`` of the same id waits for that.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from pyvmm_kata import state, timeline
from pyvmm_kata.errors import ConfigError, VmmError
from pyvmm_kata.oci.create import ALIASES as CREATE_ALIASES
from pyvmm_kata.oci.create import OPTIONS as CREATE_OPTIONS
from pyvmm_kata.oci.create import create
from pyvmm_kata.oci.delete import delete
from pyvmm_kata.oci.kill import start
from pyvmm_kata.oci.options import FLAG, one_id, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.pod.checkpoint_folder import Kept

OPTIONS = {**CREATE_OPTIONS, "detach": FLAG, "keep": FLAG, "no-subreaper": FLAG}
ALIASES = {**CREATE_ALIASES, "d": "detach"}
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the container's exit status."""
    options, rest = parse(arguments, OPTIONS, ALIASES, "run")
    container_id = one_id(rest, "run")
    return run(context, container_id, options)


def run(
    context: Context,
    container_id: str,
    options: dict[str, Any],
    *,
    insist: bool = False,
    kept: Kept | None = None,
    then: Callable[[], None] = lambda: None,
) -> int:
    """Run a container of a bundle; returns the exit status: the container's, 0 with ``detach``.

    :param kept: a checkpoint from which it continues; None: it is started
    :param then: called when it runs
    :param insist: a second SIGINT or SIGTERM kills it: signals without a handler do not end the first process of a pid
        namespace
    """
    foreground = not options["detach"]
    folder = context.folder(container_id)
    pid = create(context, container_id, options, foreground=foreground, kept=kept)
    # With --debug the log has all when we have ended
    removes = foreground and not options["keep"] and not timeline.is_told()

    def begin() -> None:
        if kept is None:
            start(folder, removes=removes)
        then()

    try:
        if foreground:
            return _attend(folder, pid, options, begin, insist=insist)
        begin()
        return 0
    except BaseException:
        delete(folder, force=True)
        raise
    finally:
        if foreground and not options["keep"] and _is_there(folder, pid):
            delete(folder, force=True)
            timeline.note("deleted")


def _is_there(folder: str, pid: int) -> bool:
    """Whether its monitor has left its removal to us: otherwise another container may have its name already."""
    try:
        return bool(state.read(folder)["pid"] == pid)
    except ConfigError as error:
        return error.code != "container-missing"


def _attend(folder: str, pid: int, options: dict[str, Any], begin: Callable[[], None], *, insist: bool) -> int:
    """Start it, and forward signals and the terminal's size to the container until it ends."""
    asked = 0

    def forward(number: int, _frame: Any) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        try:
            os.kill(pid, signal.SIGKILL if insist and asked > 1 else number)
        except ProcessLookupError:
            pass

    for number in FORWARDED:
        signal.signal(number, forward)
    terminal = not options["console-socket"] and os.isatty(0)
    if not terminal:
        begin()
        return _wait(pid)
    from pyvmm_kata.oci.console import RawTerminal, follow

    def resize(rows: int, columns: int) -> None:
        try:
            control.call(folder, "resize", rows=rows, columns=columns)
        except VmmError:
            pass  # it has ended, or the next size reaches it

    if not state.read(folder)["process"].get("terminal"):
        begin()
        return _wait(pid)
    with RawTerminal(0):
        begin()
        follow(0, resize, take=False)
        return _wait(pid)


def _wait(pid: int) -> int:
    while True:
        try:
            _, status = os.waitpid(pid, 0)
        except InterruptedError:
            continue
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code
