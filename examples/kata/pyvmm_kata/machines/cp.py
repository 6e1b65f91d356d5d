"""``pyvmm cp``: copies files into a container, or out of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.machines.options import attempt, new_parser

if TYPE_CHECKING:
    import argparse

SUMMARY = "copy files into a container, or out of it"


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser(
        "cp",
        "Copy a file or directory into a running container, or out of it, with the tar of its image. "
        "A directory that ends with /. is copied without itself. - is a tar archive on standard input or output. "
        "A path of the host with a colon begins with / or ./",
        json=False,
    )
    made.add_argument("source", metavar="[NAME:]SOURCE")
    made.add_argument("target", metavar="[NAME:]TARGET")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import copies, records

    def copy() -> int:
        (inside, source), (to_inside, target) = _split(options.source), _split(options.target)
        if bool(inside) == bool(to_inside):
            raise ConfigError("one of the two is NAME:PATH, the other a path of this host", code="cp-usage")
        found = records.find(options.root, inside or to_inside)
        found.expect("running")
        with copies.Copier(found, records.root_of(options.root)) as copier:
            if not inside:
                copier.put_stream(0, target) if source == "-" else copier.put(source, target)
            elif target == "-":
                copier.get_stream(source, sys.stdout.fileno())
            else:
                copier.get(source, target)
        return 0

    return attempt(copy)


def _split(text: str) -> tuple[str, str]:
    """The container's name, empty for this host, and the path."""
    name, colon, path = text.partition(":")
    if not colon or not name or text.startswith((".", "/")):
        return "", text
    return name, "/" + path.lstrip("/")
