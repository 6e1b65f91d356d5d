"""``pyvmm-oci list``: prints the containers whose state is below ``--root``."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import FLAG, VALUE, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"format": VALUE, "quiet": FLAG}, {"f": "format", "q": "quiet"}, "list")
    if rest:
        raise ConfigError(f"list: {rest[0]!r} is one argument too many", code="oci-usage")
    if options["format"] not in ("", "table", "json"):
        raise ConfigError(f"list: --format {options['format']!r} is neither table nor json", code="oci-usage")
    found = list(_all(context))
    if options["quiet"]:
        sys.stdout.write("".join(f"{known['id']}\n" for known in found))
    elif options["format"] == "json":
        sys.stdout.write(json.dumps(found or None) + "\n")
    else:
        rows = [COLUMNS, *(tuple(str(known[name.lower()]) for name in COLUMNS) for known in found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        for row in rows:
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            sys.stdout.write(line.rstrip() + "\n")
    return 0


def _all(context: Context) -> list[Json]:
    if not os.path.isdir(context.root):
        return []
    found = []
    for name in sorted(os.listdir(context.root)):
        if name.startswith("@"):
            continue  # of a machine
        try:
            found.append(state.public(state.read(context.folder(name))))
        except ConfigError:
            pass  # it is being made, or removed, or is no container
    return found
