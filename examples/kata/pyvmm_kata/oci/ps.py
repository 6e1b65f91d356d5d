"""``pyvmm-oci ps ID``: prints the processes of a container, by the numbers that they have in its virtual machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci import control
from pyvmm_kata.oci.options import VALUE, one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"format": VALUE}, {"f": "format"}, "ps")
    folder = context.folder(one_id(rest[:1], "ps"))
    if options["format"] not in ("", "table", "json"):
        raise ConfigError(f"ps: --format {options['format']!r} is neither table nor json", code="oci-usage")
    state.read(folder)
    pids = control.call(folder, "pids")["pids"]
    if options["format"] == "json":
        sys.stdout.write(json.dumps(pids) + "\n")
    else:
        sys.stdout.write("PID\n" + "".join(f"{pid}\n" for pid in pids))
    return 0
