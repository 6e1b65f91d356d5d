"""``pyvmm-oci pause ID``: freezes the processes of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.oci import control
from pyvmm_kata.oci.options import one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    _, rest = parse(arguments, {}, {}, "pause")
    folder = context.folder(one_id(rest, "pause"))
    state.read(folder)
    control.call(folder, "pause")
    return 0
