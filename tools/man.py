"""`python -m tools.man`: write the man pages of all programs into `man/` of each package, from their parsers and help.

The folders are not committed: `make wheels` writes them, and each wheel installs its own below share/man/man1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Iterator

from pyvmm_firecracker.jailer.program import parser as jailer_parser
from pyvmm_sentry.command import parser as runsc_parser
from tools.command_line import WIDTH, help_of, text_of
from tools.where import ROOT
from vmm import __version__
from vmm.cli.commands import COMMANDS
from vmm.cli.plugins import entry_points, external_commands

HEADING = re.compile(r"[a-z][a-z ]*:")
SHIM = """\
usage: containerd-shim-pyvmm-v2 -namespace NAME -id ID -address PATH [-bundle DIR] start|delete
       containerd-shim-pyvmm-v2 -v

containerd starts this program for each pod whose runtime is io.containerd.pyvmm.v2, and stops it with the pod.
It reads the settings of pyvmm-oci(1).
"""


def escaped(text: str) -> str:
    """Text for troff, in which no line is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", "\\\\&", text, flags=re.MULTILINE)


def _as_it_is(text: str) -> list[str]:
    return [".nf", escaped(text.strip("\n")), ".fi"] if text.strip() else []


def _sections(text: str) -> Iterator[str]:
    """The end of a help text: a line that is a heading begins a section."""
    part: list[str] = []
    for line in text.splitlines():
        if HEADING.fullmatch(line):
            yield from _as_it_is("\n".join(part))
            yield f".SH {line.rstrip(':').upper()}"
            part = []
        else:
            part.append(line)
    yield from _as_it_is("\n".join(part))


def _usage(text: str) -> list[str]:
    return _as_it_is(re.sub(r"^ {7}", "", text.removeprefix("usage: "), flags=re.MULTILINE))


def _head(name: str, summary: str) -> list[str]:
    title = f'.TH {escaped(name.upper())} 1 "" "pyvmm {__version__}" "User Commands"'
    return [title, ".SH NAME", f"{escaped(name)} \\- {escaped(summary)}", ".SH SYNOPSIS"]


def _options(made: argparse.ArgumentParser) -> Iterator[str]:
    for action in made._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        shown = value if isinstance(value, str) else " ".join(value)
        if action.choices is not None and action.metavar is None:
            shown = "{" + ",".join(map(str, action.choices)) + "}"
        flags = ", ".join(f"\\fB{escaped(flag)}\\fR" for flag in action.option_strings)
        words = (
            f"{flags} \\fI{escaped(shown)}\\fR" if flags and action.nargs != 0 else flags or f"\\fI{escaped(shown)}\\fR"
        )
        yield from (".TP", words, escaped(made._get_formatter()._expand_help(action)) if action.help else "")


def of_parser(name: str, summary: str, made: argparse.ArgumentParser) -> str:
    """The page of a command with a parser, and of its own commands."""
    lines = [*_head(name, summary), *_usage(made.format_usage())]
    lines += [".SH DESCRIPTION", escaped(made.description or ""), ".SH OPTIONS", *_options(made)]
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines.append(".SH COMMANDS")
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            for word, each in action.choices.items():
                lines += [
                    f".SS {escaped(word)}",
                    escaped(texts.get(word, "")),
                    *_usage(each.format_usage()),
                    *_options(each),
                ]
    epilog = made.epilog or ""
    if epilog and not HEADING.fullmatch(epilog.partition("\n")[0]):
        lines.append(".SH NOTES")
    return "\n".join([*lines, *_sections(epilog), ""])


def of_help(name: str, summary: str, text: str) -> str:
    """The page of a program that prints its help without a parser."""
    usage, _, rest = text.partition("\n\n")
    return "\n".join([*_head(name, summary), *_usage(usage), ".SH DESCRIPTION", *_sections(rest), ""])


def pages() -> dict[str, dict[str, str]]:
    """The pages by package and name."""
    own = {"pyvmm": of_help("pyvmm", "boot, save and fork virtual machines", help_of())}
    for name, summary in COMMANDS.items():
        own[f"pyvmm-{name}"] = of_parser(f"pyvmm-{name}", summary, importlib.import_module(f"vmm.cli.{name}").parser())
    found: dict[str, dict[str, str]] = {".": own}
    for name, command in external_commands().items():
        package = f"examples/{entry_points()[name].partition('.')[0].removeprefix('pyvmm_')}"
        page = of_parser(f"pyvmm-{name}", command.SUMMARY, command.parser())
        found.setdefault(package, {})[f"pyvmm-{name}"] = page
    jailer = of_parser("pyvmm-jailer", "start pyvmm-firecracker in a jail", jailer_parser())
    found["examples/firecracker"]["pyvmm-jailer"] = jailer
    kata = found["examples/kata"]
    for name, summary in (
        ("pyvmm-oci", "an OCI runtime whose containers have virtual machines of their own"),
        ("pyvmm-poold", "keep virtual machines ready for containers"),
    ):
        kata[name] = of_help(name, summary, text_of(name, "--help"))
    kata["containerd-shim-pyvmm-v2"] = of_help(
        "containerd-shim-pyvmm-v2", "run the pods of containerd in virtual machines", SHIM
    )
    runsc = of_parser("pyvmm-runsc", "run Linux programs on the Sentry", runsc_parser())
    return {**found, "examples/sentry": {"pyvmm-runsc": runsc}}


def main() -> int:
    """Write the pages."""
    os.environ["COLUMNS"] = str(WIDTH)
    for package, texts in pages().items():
        folder = ROOT / package / "man"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.1"):
            old.unlink()
        for name, text in texts.items():
            (folder / f"{name}.1").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
