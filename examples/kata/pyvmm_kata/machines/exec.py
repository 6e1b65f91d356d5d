"""``pyvmm exec``: runs one more program in a container."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pyvmm_kata.machines.options import FAILED, add_name, attempt, new_parser, report

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.machines.records import Machine

SUMMARY = "run one more program in a container"
_NO_PROGRAM, _REFUSED = 127, 126
_MISSING = re.compile("not found|no such file|names no program", re.IGNORECASE)
_DENIED = re.compile("permission denied|is a directory", re.IGNORECASE)


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    made = new_parser("exec", "Run one more program in a container or sandbox.", json=False)
    made.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    made.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    made.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="one more environment variable"
    )
    made.add_argument("-u", "--user", default="", metavar="UID[:GID]", help="its user and group, by number")
    made.add_argument("-w", "--workdir", default="", metavar="PATH", help="where it starts")
    add_name(made)
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns the program's exit status, 125 to 127 if it cannot be run."""
    made = parser()
    options = made.parse_args(argv)
    if not options.command:
        made.error("which program?")
    from pyvmm_kata.machines import records
    from pyvmm_kata.oci.exec import Attendant
    from pyvmm_kata.protocol.control import Refused

    def run() -> int:
        found = records.find(options.root, options.name)
        found.expect("running")
        process = _process(found, options)
        if not options.interactive:
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
        try:
            return Attendant(found.folder, process, "").run()
        except Refused as error:
            report(error)
            text = str(error)
            return _NO_PROGRAM if _MISSING.search(text) else _REFUSED if _DENIED.search(text) else FAILED

    return attempt(run)


def _process(found: Machine, options: argparse.Namespace) -> dict[str, object]:
    from pyvmm_kata import state
    from pyvmm_kata.oci.exec_process import OPTIONS, process_from
    from pyvmm_kata.oci.options import FLAG, LIST
    from pyvmm_kata.run_spec import merge_env

    blank = {FLAG: False, LIST: []}
    given = {name: blank.get(kind, "") for name, kind in OPTIONS.items()}
    given |= {"tty": options.tty, "cwd": options.workdir, "user": options.user}
    process = process_from(state.read(found.folder)["process"], given, options.command)
    process["env"] = merge_env(process["env"], options.env)
    return process
