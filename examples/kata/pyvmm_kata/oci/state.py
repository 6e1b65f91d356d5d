"""``pyvmm-oci state ID``: prints the state of a container as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.oci.options import one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    _, rest = parse(arguments, {}, {}, "state")
    known = state.public(state.read(context.folder(one_id(rest, "state"))))
    sys.stdout.write(json.dumps(known, indent=2) + "\n")
    return 0
