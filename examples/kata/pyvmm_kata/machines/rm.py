"""``pyvmm rm``: removes containers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.machines.options import add_name, for_each, new_parser

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.errors import VmmError

SUMMARY = "remove containers"
_NONE, _RUNS = 1, 2


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("rm", "Remove containers that have ended, with their logs.")
    made.add_argument("-f", "--force", action="store_true", help="also those that run; a missing one is no error")
    add_name(made, many=True)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status: 1 if there is no such container, 2 if one runs."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import records, removal

    def one(name: str) -> str:
        try:
            found = records.find(options.root, name)
        except ConfigError as error:
            if not options.force or error.code == "container-name":
                raise
            return _clear(records.root_of(options.root), name) if error.code == "container-state" else ""
        if not options.force:
            found.expect("stopped")
        removal.remove(found.folder, found.bundle, force=options.force)
        return found.name

    return for_each(options.names, one, as_json=options.json, status_of=_status)


def _clear(root: str, name: str) -> str:
    """One whose state cannot be read."""
    from pyvmm_kata.oci.delete import delete

    delete(os.path.join(root, name), force=True)
    return name


def _status(error: VmmError) -> int:
    codes = {"container-missing": _NONE, "container-name": _NONE, "container-state": _RUNS}
    return codes.get(error.code, 125)
