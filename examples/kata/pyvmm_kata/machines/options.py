"""The common parts of the commands: options, errors, tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyvmm_kata.errors import VmmError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

FAILED = 125
"""The exit status of a command that fails itself, as podman's."""


def new_parser(name: str, description: str, *, json: bool = True) -> argparse.ArgumentParser:
    """With the options that all commands have.

    :param json: it has ``--json``
    """
    import argparse

    made = argparse.ArgumentParser(prog=f"pyvmm {name}", description=description)
    made.add_argument("--root", default="", metavar="DIR", help="where states are, as of pyvmm-oci --root")
    if json:
        made.add_argument("--json", action="store_true", help="print JSON")
    return made


def add_name(made: argparse.ArgumentParser, *, many: bool = False) -> None:
    """The argument for one container, or several."""
    if many:
        made.add_argument("names", nargs="+", metavar="NAME", help="a container's name, or the beginning of it")
    else:
        made.add_argument("name", metavar="NAME", help="the container's name, or the beginning of it")


def attempt(work: Callable[[], int]) -> int:
    """The exit status of *work*; reports its error."""
    try:
        return work()
    except VmmError as error:
        report(error)
        return FAILED


def report(error: VmmError) -> None:
    """Print an error as ``pyvmm`` does."""
    sys.stderr.write(f"pyvmm: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))


def for_each(
    names: Sequence[str],
    work: Callable[[str], str],
    *,
    as_json: bool,
    status_of: Callable[[VmmError], int] = lambda _: FAILED,
) -> int:
    """Call *work* with each name, print what it returns, and report errors; the largest exit status.

    :param work: returns the container's whole name; empty: there is nothing to report
    """
    status = 0
    done: list[dict[str, str]] = []
    for name in names:
        try:
            whole = work(name)
            if whole:
                done.append({"name": whole})
                if not as_json:
                    print(whole, flush=True)
        except VmmError as error:
            report(error)
            done.append({"name": name, "error": str(error)})
            status = max(status, status_of(error))
    if as_json:
        print_json(done)
    return status


def print_json(value: object) -> None:
    """On standard output."""
    import json

    print(json.dumps(value, indent=2), flush=True)


def printable(text: str) -> str:
    """A guest's text, with its control characters escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def size_text(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def span_text(seconds: float) -> str:
    """A span of time, in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds / length)} {unit}"
    return f"{max(0, int(seconds))} seconds"
