"""``pyvmm COMMAND ...``: finds the command's module and turns errors into messages and exit statuses."""

from __future__ import annotations

import gc
import posix
import sys

from vmm.cli.commands import COMMANDS, EXIT_CONFIG, EXIT_HOST, INTERNAL, exit_status
from vmm.errors import VmmError

SHORTAGES = (12, 23, 24)
"""ENOMEM, ENFILE, EMFILE: of what has no better words for it."""


def usage() -> str:
    """The text of ``pyvmm --help``."""
    from vmm.cli.plugins import external_commands

    lines = ["usage: pyvmm COMMAND [OPTION]...", "", "A lightweight hypervisor on KVM.", "", "commands:"]
    lines += [f"  {name:<12}{text}" for name, text in COMMANDS.items()]
    lines += [f"  {name:<12}{command.SUMMARY}" for name, command in external_commands().items()]
    lines += ["", "pyvmm COMMAND --help describes a command; pyvmm --version prints the version."]
    return "\n".join(lines) + "\n"


def _module(name: str) -> str:
    """The module of a command."""
    return INTERNAL.get(name) or f"vmm.cli.{name}"


def _open_standard_descriptors() -> None:
    """Open the descriptors that the caller has closed. Otherwise the guest's memory could become descriptor 2, where
    messages are written."""
    for fd in range(3):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
    # Python has left these out then
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    _open_standard_descriptors()
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if name == "--version":
        from vmm import __version__

        sys.stdout.write(f"pyvmm {__version__ or 'unknown (not installed)'}\n")
        return 0
    if not name:
        sys.stderr.write(usage())
        return EXIT_CONFIG
    try:
        if name == "boot":
            from vmm.cli import signals

            signals.exit_at_once()
        else:
            gc.enable()  # bin/pyvmm has it off for the sake of a boot
        if name not in COMMANDS and name not in INTERNAL:
            from vmm.cli.plugins import external_command

            command = external_command(name)
            if command is None:
                sys.stderr.write(f"pyvmm: no command {name!r}; see pyvmm --help\n")
                return EXIT_CONFIG
            return command.main(arguments[1:])
        # Not importlib: the boot path pays for no import machinery
        status: int = __import__(_module(name), fromlist=("main",)).main(arguments[1:])
        return status
    except VmmError as error:
        sys.stderr.write(f"pyvmm: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return exit_status(error)
    except BrokenPipeError:
        return EXIT_HOST
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        sys.stderr.write(f"pyvmm: {error.strerror}\n  hint: see the limits of this process: ulimit -a\n")
        return EXIT_HOST
