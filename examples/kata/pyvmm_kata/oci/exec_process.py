"""The process that a command line of ``exec`` describes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.bundle import read_json
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import FLAG, LIST, NUMBER, VALUE, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.state import Json

OPTIONS = {
    "process": VALUE,
    "detach": FLAG,
    "tty": FLAG,
    "pid-file": VALUE,
    "console-socket": VALUE,
    "pidfd-socket": VALUE,
    "cwd": VALUE,
    "env": LIST,
    "user": VALUE,
    "additional-gids": LIST,
    "cap": LIST,
    "no-new-privs": FLAG,
    "preserve-fds": NUMBER,
    "process-label": VALUE,
    "apparmor": VALUE,
    "cgroup": LIST,
    "ignore-paused": FLAG,
}
ALIASES = {"p": "process", "d": "detach", "t": "tty", "e": "env", "u": "user", "g": "additional-gids", "c": "cap"}


def process_of(arguments: Sequence[str], of_container: Json, file: int = -1) -> Json:
    """In the monitor: the process of a command line of ``exec`` without a container's id.

    :param file: a descriptor of the file that ``--process`` names
    :raises ConfigError: the command line is invalid
    """
    options, command = parse(arguments, OPTIONS, ALIASES, "exec")
    return read_json(f"/proc/self/fd/{file}") if file >= 0 else process_from(of_container, options, command)


def process_from(of_container: Json, options: Json, command: list[str]) -> Json:
    """The container's first process with another program, changed by the options."""
    if not command:
        raise ConfigError("exec: no command is given", code="oci-usage", hint="or --process FILE")
    process: Json = json.loads(json.dumps({**of_container, "args": command, "terminal": options["tty"]}))
    process.pop("consoleSize", None)
    if options["cwd"]:
        process["cwd"] = options["cwd"]
    process["env"] = [*(process.get("env") or ()), *options["env"]]
    user = process.setdefault("user", {})
    if options["user"]:
        ids = options["user"].split(":")
        if not all(part.isascii() and part.isdigit() for part in ids) or len(ids) > 2:
            raise ConfigError(
                f"exec: --user {options['user']!r} is not UID[:GID]", code="oci-usage", hint="by number, as in runc"
            )
        process["user"] = user = dict(zip(("uid", "gid"), map(int, ids), strict=False))
    if options["additional-gids"]:
        user["additionalGids"] = [_number(text) for text in options["additional-gids"]]
    if options["no-new-privs"]:
        process["noNewPrivileges"] = True
    if options["cap"]:
        sets = process.setdefault("capabilities", {})
        for kind in ("bounding", "effective", "permitted"):
            sets[kind] = [*(sets.get(kind) or ()), *options["cap"]]
    return process


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"exec: --additional-gids {text!r} is not a number", code="oci-usage") from None
