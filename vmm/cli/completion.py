"""``pyvmm completion``: a completion script for a shell, made from the parsers of all commands."""

from __future__ import annotations

import sys

from vmm.cli import complete_list
from vmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

PROG = "pyvmm completion"
DESCRIPTION = "Print a completion script."
EPILOG = """\
to use it:
  bash   pyvmm completion bash > ~/.local/share/bash-completion/completions/pyvmm
  zsh    pyvmm completion zsh > a folder of $fpath, as _pyvmm
  fish   pyvmm completion fish > ~/.config/fish/completions/pyvmm.fish
"""
SHELLS = ("bash", "zsh", "fish")


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    result = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("shell", choices=SHELLS, help="the shell")
    return result


def whole_parser(shtab: ModuleType, external: Iterable[str] | None = None) -> argparse.ArgumentParser:
    """The parser of ``pyvmm`` with its commands, with file arguments marked for *shtab*.

    :param external: commands of other packages; None: all that are installed
    """
    import argparse
    from importlib import import_module

    from vmm.cli.commands import COMMANDS
    from vmm.cli.plugins import external_commands

    result = argparse.ArgumentParser(prog="pyvmm")
    result.add_argument("--version", action="store_true", help="print the version")
    commands = result.add_subparsers(metavar="COMMAND")
    marks: dict[str, Any] = {"file": shtab.FILE, "directory": shtab.DIRECTORY}
    parsers = [(name, text, import_module(f"vmm.cli.{name}").parser()) for name, text in COMMANDS.items()]
    parsers += [
        (name, command.SUMMARY, command.parser())
        for name, command in external_commands().items()
        if external is None or name in external
    ]
    for name, text, command in parsers:
        for action in command._actions:
            mark = marks.get(action.__dict__.pop("complete", ""))
            syntax = action.__dict__.pop("syntax", None)
            if syntax is not None:
                action.complete = complete_list.completion(action.dest, syntax)
            elif mark is not None:
                action.complete = mark
        commands.add_parser(name, parents=[command], add_help=False, help=text)
    return result


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status.

    :raises HostError: the library that generates the scripts is not installed
    """
    shell: str = parser().parse_args(argv).shell
    try:
        import shtab
    except ImportError as error:
        raise HostError(
            "completion scripts are made by the Python package shtab, which is not installed",
            code="shtab",
            hint="pip install shtab",
        ) from error
    sys.stdout.write(script(shtab, shell))
    return 0


def script(shtab: ModuleType, shell: str, external: Iterable[str] | None = None) -> str:
    """The completion script for a shell; the parameters are those of :func:`whole_parser`."""
    text: str = shtab.complete(whole_parser(shtab, external), shell, preamble=complete_list.BEGIN[shell])
    return text + "\n" + complete_list.END.get(shell, "")
