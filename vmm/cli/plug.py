"""What ``pyvmm disk`` and ``pyvmm share`` have in common: devices that come and go while a machine runs."""

from __future__ import annotations

import os
import sys

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


class Plug:
    """The command of one kind of device.

    :param kind: ``disk`` or ``share``, as in the requests of the control socket
    :param actions: what it can do beside ``add`` and ``remove``
    """

    def __init__(
        self, kind: str, metavar: str, text: str, complete: str, description: str, epilog: str, *actions: str
    ) -> None:
        self._kind = kind
        self._metavar = metavar
        self._text = text
        self._complete = complete
        self._description = description
        self._epilog = epilog
        self._actions = ("add", "remove", *actions)

    def parser(self) -> argparse.ArgumentParser:
        """The parser, for help, completion and the command line."""
        made = make_parser(f"pyvmm {self._kind}", self._description, (), self._epilog)
        made.add_argument("--timeout", metavar="SECONDS", default="30", help="remove: how long to wait (default: 30)")
        made.add_argument("--force", action="store_true", help="remove: remove it then, even if the guest uses it")
        made.add_argument("what", choices=self._actions, help="what to do")
        add_vm(made)
        made.add_argument("device", metavar=self._metavar, help=self._text).complete = self._complete  # type: ignore[attr-defined]
        return made

    def main(self, argv: list[str]) -> int:
        """Run the command; returns its exit status."""
        values = self.parser().parse_args(argv)
        from vmm.control.client import ask

        if not values.timeout.isdecimal():
            raise ConfigError(f"--timeout {values.timeout!r}: not a number", code="number-syntax")
        kind = self._kind
        if values.what == "add":
            place, comma, options = values.device.replace(",,", "\0").partition(",")
            path = os.path.abspath(place.replace("\0", ",")).replace(",", ",,")
            answer = ask(values.vm, f"add-{kind}", **{kind: path + comma + options.replace("\0", ",,")})
            if "tag" in answer:
                sys.stdout.write(f"{answer['tag']}\n")
            return 0
        path = os.path.abspath(values.device)
        if values.what != "remove":
            ask(values.vm, f"{values.what}-{kind}", path=path)
            return 0
        seconds = int(values.timeout)
        if not ask(values.vm, f"remove-{kind}", path=path, seconds=seconds, force=values.force)["removed"]:
            raise HostError(
                f"{kind} {path}: the guest has not released it within {seconds} s",
                code=f"{kind}-busy",
                hint="it may be mounted there; --force removes it",
            )
        return 0
