"""``pyvmm-oci start ID``: runs the program of a container that was created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host import hooks
from pyvmm_kata.oci import control
from pyvmm_kata.oci.options import one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    _, rest = parse(arguments, {}, {}, "start")
    start(context.folder(one_id(rest, "start")))
    return 0


def start(folder: str) -> None:
    """Start it, and run its ``poststart`` hooks.

    :raises VmmError: it cannot be started
    """
    known = state.read(folder)
    if known["status"] != "created":
        raise ConfigError(f"cannot start a container that is {known['status']}", code="container-state")
    control.call(folder, "start")
    if known["hooks"].get("poststart"):
        hooks.run(known["hooks"], "poststart", state.public(state.read(folder)))
