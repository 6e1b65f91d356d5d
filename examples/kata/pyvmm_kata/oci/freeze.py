"""``pyvmm-oci pause ID`` freezes the processes of a container, ``pyvmm-oci resume ID`` thaws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.oci import control
from pyvmm_kata.oci.options import one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


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
