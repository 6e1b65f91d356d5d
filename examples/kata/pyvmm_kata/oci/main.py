"""``pyvmm-oci [GLOBAL OPTION]... COMMAND [OPTION]... [ARGUMENT]...``: finds the command, and turns errors into
messages."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from pyvmm_kata import timeline
from pyvmm_kata.errors import ConfigError, VmmError
from pyvmm_kata.oci.context import Context, default_root
from pyvmm_kata.oci.options import FLAG, VALUE, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.state import Json

COMMANDS = {
    "create": "make a container, not yet started",
    "start": "run the program of a container that was created",
    "run": "create and start a container, and wait for its end",
    "exec": "run one more program in a running container",
    "state": "print the state of a container as JSON",
    "list": "list containers",
    "ps": "list the processes of a container",
    "kill": "send a signal to a container",
    "delete": "remove a container that has ended; --force: any",
    "pause": "freeze the processes of a container",
    "resume": "let them go on",
    "checkpoint": "save a running container, with its memory, in a folder",
    "restore": "let a container go on where a checkpoint was made",
    "fork": "make running copies of a container, each in a machine of its own",
    "update": "change limits of a running container",
    "events": "print statistics of a container",
    "metrics": "print, or serve, the figures of all machines for Prometheus",
    "template": "make, list or remove the machines that those of containers are clones of",
    "features": "print what this runtime can do, as JSON",
    "spec": "write a config.json to start from",
}
PLACES = {
    "state": ("state_commands", "state"),
    "list": ("state_commands", "list_"),
    "ps": ("state_commands", "ps"),
    "features": ("state_commands", "features"),
    "checkpoint": ("checkpoint", "checkpoint"),
    "restore": ("checkpoint", "restore"),
    "fork": ("checkpoint", "fork"),
    "start": ("kill", "start_main"),
    "pause": ("kill", "pause"),
    "resume": ("kill", "resume"),
}
"""Module and function of commands that share a file; for the others these are the command's name and ``main``."""
OPTIONS = {
    "root": VALUE,
    "log": VALUE,
    "log-format": VALUE,
    "debug": FLAG,
    "systemd-cgroup": FLAG,
    "rootless": VALUE,
    "criu": VALUE,
    "config": VALUE,
    "isolation": VALUE,
    "platform": VALUE,
    "network": VALUE,
    "strace": FLAG,
    "overlay": VALUE,
    "help": FLAG,
    "version": FLAG,
}
USAGE = """\
usage: pyvmm-oci [GLOBAL OPTION]... COMMAND [OPTION]... [ARGUMENT]...

An OCI runtime with runc's command line; each container has a virtual machine of its own.

commands:
{commands}

global options: --root DIR, --log FILE, --log-format text|json, --debug (into the log: when what happened, and the
guest's console), --systemd-cgroup, --config FILE (see the user's guide), --isolation vm|sentry (what
runs a new container: Linux in a virtual machine, or this project's own kernel), --network sandbox|none|user

with --isolation sentry: --platform auto|kvm|trap, --strace (every system call, into the log with --debug),
--overlay memory (what a container writes to its root is in its memory, and lost at its end)
"""


def version_text() -> str:
    """The output of ``--version``: lines like runc's, with the version of the runtime specification on the third."""
    from importlib.metadata import PackageNotFoundError, version

    from pyvmm_kata.state import OCI_VERSION

    try:
        number = version("pyvmm-kata")
    except PackageNotFoundError:
        number = "unknown"
    return f"pyvmm-oci version {number}\ncommit: none\nspec: {OCI_VERSION}\n"


def context_of(options: Json) -> Context:
    """The context of a command with such global options."""
    return Context(
        os.path.abspath(options["root"] or default_root()),
        options["log"] and os.path.abspath(options["log"]),
        options["log-format"] or "text",
        options["debug"],
        options["systemd-cgroup"],
        options["config"],
        isolation=options["isolation"],
        platform=options["platform"],
        network=options["network"],
        strace=options["strace"],
        overlay=options["overlay"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    context = Context(default_root())
    try:
        options, rest = parse(
            sys.argv[1:] if arguments is None else arguments, OPTIONS, {"h": "help", "v": "version"}, "pyvmm-oci"
        )
        context = context_of(options)
        if context.debug:
            timeline.tell(context.note)
            timeline.note("command")
        if options["version"]:
            sys.stdout.write(version_text())
            return 0
        if options["help"] or not rest or rest[0] == "help":
            sys.stdout.write(USAGE.format(commands="\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items())))
            return 0
        name = rest.pop(0)
        if name not in COMMANDS:
            raise ConfigError(f"pyvmm-oci has no command {name!r}", code="oci-usage", hint="see pyvmm-oci --help")
        module, function = PLACES.get(name, (name, "main"))
        status: int = getattr(import_module(f"pyvmm_kata.oci.{module}"), function)(context, rest)
        return status
    except VmmError as error:
        context.error(f"{error} ({error.hint})" if error.hint else str(error))
        return 1
    except OSError as error:
        context.error(f"pyvmm-oci: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
