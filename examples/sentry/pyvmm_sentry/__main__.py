"""``pyvmm-runsc``, also as ``python -m pyvmm_sentry``: programs and containers on the Sentry, with runsc's flags.

Commands for containers are those of ``pyvmm-oci --isolation sentry``, which replaces this process.
"""

from __future__ import annotations

import os
import sys

from pyvmm_sentry import flags as runsc

PROG = "pyvmm-runsc"
CONTAINERS = (
    "create", "start", "run", "exec", "state", "list", "ps", "kill", "delete", "pause", "resume", "checkpoint",
    "restore", "update", "events", "features", "spec",
)  # fmt: skip
"""Commands of ``pyvmm-oci``."""
OWN = ("do", "platforms", "kernel", "help")
PASSED = ("root", "log-format", "config")


def fail(text: str, hint: str = "") -> int:
    """Print an error; returns the exit status."""
    print(f"{PROG}: {text}", *([f"  hint: {hint}"] if hint else []), sep="\n", file=sys.stderr)
    return 125


def _in_path(name: str) -> str | None:
    import shutil

    return shutil.which(name)


def container_command(flags: runsc.Flags, words: list[str]) -> list[str]:
    """The command line of ``pyvmm-oci`` for a command and its arguments."""
    flags.check_container()
    beside = os.path.join(os.path.dirname(sys.executable), "pyvmm-oci")
    program = beside if os.access(beside, os.X_OK) else _in_path("pyvmm-oci")
    if program is None:
        raise runsc.Refused(
            "pyvmm-oci is not installed", "pip install --editable examples/kata, in a checkout of pyvmm"
        )
    command = [program]
    for name in PASSED:
        command += [f"--{name}", flags.of(name)] if flags.of(name) else []
    command += ["--log", flags.log] if flags.log else []
    command += [f"--{name}" for name in ("debug", "systemd-cgroup", "version") if flags.of(name)]
    if words[:1] and words[0] in ("create", "run", "restore"):
        command += ["--isolation", "sentry", *(["--strace"] if flags.of("strace") else [])]
        command += ["--platform", flags.platform] if flags.platform else []
        command += ["--network", flags.of("network")] if flags.of("network") else []
        command += ["--overlay", "memory"] if flags.of("overlay2") in runsc.OVERLAYS else []
    return command + words


def program_command(flags: runsc.Flags, words: list[str]) -> list[str]:
    """The arguments of ``do``, which has options of its own, with the flags before it."""
    before = ["--strace"] if flags.of("strace") else []
    before += ["--platform", flags.platform] if flags.platform else []
    before += ["--network", "none" if flags.of("network") == "none" else "user"] if flags.of("network") else []
    return [words[0], *before, *words[1:]]


def debug(flags: runsc.Flags, words: list[str]) -> list[str]:
    """``debug --ps ID`` and ``debug --stacks ID``; nothing else of runsc's command is there."""
    if len(words) == 2 and words[0].lstrip("-") in ("ps", "stacks"):
        shown = ["--format", "stacks"] if words[0].lstrip("-") == "stacks" else []
        return container_command(flags, ["ps", *shown, words[1]])
    raise runsc.Refused(
        "debug: there are --ps ID and --stacks ID", f"{PROG} --debug --strace --log FILE run ... prints calls"
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        flags, words = runsc.split(sys.argv[1:] if argv is None else argv)
        name = words[0] if words else ""
        if name in CONTAINERS or flags.of("version"):
            command = container_command(flags, words)
            os.execv(command[0], command)
        if name == "debug":
            command = debug(flags, words[1:])
            os.execv(command[0], command)
        if name == "flags":
            print(runsc.text())
            return 0
        if name and name not in OWN:
            raise runsc.Refused(f"there is no command {name}", f"there are {', '.join((*OWN, 'flags', *CONTAINERS))}")
        if name == "do":
            words = program_command(flags, words)
    except runsc.Refused as error:
        return fail(str(error), error.hint)
    from pyvmm_sentry import command as own

    return own.main(words or ["--help"])


if __name__ == "__main__":
    sys.exit(main())
