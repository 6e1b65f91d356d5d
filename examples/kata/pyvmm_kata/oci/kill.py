"""``pyvmm-oci kill [--all] ID [SIGNAL]``: sends a signal to a container.

``pyvmm-oci start ID`` runs the program of a created one, ``pyvmm-oci pause ID`` freezes its processes, and ``pyvmm-oci
resume ID`` thaws them.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host import hooks
from pyvmm_kata.oci.options import FLAG, one_id, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"all": FLAG}, {"a": "all"}, "kill")
    container_id = one_id(rest, "kill", 2)
    number = signal_number(rest[1] if len(rest) > 1 else "TERM")
    folder = context.folder(container_id)
    known = state.read(folder)
    if known["status"] == "stopped":
        if options["all"]:
            return 0  # as runc does: no process is left
        raise ConfigError("container not running", code="container-state")
    control.call(folder, "kill", signal=number, all=options["all"])
    return 0


def signal_number(text: str) -> int:
    """From ``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``.

    :raises ConfigError: there is no such signal
    """
    if text.isascii() and text.isdigit() and 0 < int(text) < 65:
        return int(text)
    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    found = getattr(signal, f"SIG{base}", None)
    if isinstance(found, signal.Signals) and (not plus or (base == "RTMIN" and offset.isdigit())):
        return int(found) + (int(offset) if plus else 0)
    raise ConfigError(f"kill: {text!r} is no signal", code="oci-usage", hint="for example TERM, SIGKILL, 9")


def pause(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    return _tell(context, arguments, "pause")


def resume(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    return _tell(context, arguments, "resume")


def _tell(context: Context, arguments: Sequence[str], name: str) -> int:
    _, rest = parse(arguments, {}, {}, name)
    folder = context.folder(one_id(rest, name))
    state.read(folder)
    control.call(folder, name)
    return 0


def start_main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    _, rest = parse(arguments, {}, {}, "start")
    start(context.folder(one_id(rest, "start")))
    return 0


def start(folder: str, *, removes: bool = False) -> None:
    """Start it, and run its ``poststart`` hooks.

    :param removes: its monitor may remove its remains when it has ended. Its state still exists if that was impossible,
        the monitor was killed, or there are ``poststop`` hooks
    :raises VmmError: it cannot be started
    """
    known = state.read(folder)
    if known["status"] != "created":
        raise ConfigError(f"cannot start a container that is {known['status']}", code="container-state")
    control.call(folder, "start", removes=removes and not known["hooks"].get("poststop"))
    if known["hooks"].get("poststart"):
        hooks.run(known["hooks"], "poststart", state.public(state.read(folder)))
