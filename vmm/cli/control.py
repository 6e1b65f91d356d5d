"""``pyvmm control``: any request of a machine's control socket, from the table that the socket serves."""

from __future__ import annotations

import json
import sys

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from vmm.control.requests import Request

PROG = "pyvmm control"
DESCRIPTION = "Send a request to a running machine, and print its answer as JSON."
EPILOG = """\
VM is the control socket of the machine.  Without REQUEST the command lists all requests.  pyvmm snapshot, fork, resize,
disk and share send the same requests, and complete paths and units.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --control /tmp/vm.sock
  pyvmm control /tmp/vm.sock pause
  pyvmm control /tmp/vm.sock status
  pyvmm control /tmp/vm.sock resize-cpus count=2
"""
_BOOLS = {"true": True, "false": False}


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    add_vm(made)
    made.add_argument("request", metavar="REQUEST", nargs="?", help="its name")
    made.add_argument("arguments", metavar="NAME=VALUE", nargs="*", help="its arguments")
    return made


def _list() -> str:
    from vmm.control.requests import REQUESTS

    lines = []
    for request in REQUESTS.values():
        words = [request.name, *(_shown(request, argument.name) for argument in request.arguments)]
        lines += [" ".join(words), f"    {request.text.replace('`', '')}"]
    return "\n".join(lines) + "\n"


def _shown(request: Request, name: str) -> str:
    argument = next(each for each in request.arguments if each.name == name)
    shown = f"{name}={(argument.unit or argument.kind).upper()}"
    return shown if argument.default is None and not argument.optional else f"[{shown}]"


def _values(name: str, words: list[str]) -> dict[str, object]:
    """The arguments of a request as they are typed.

    :raises ConfigError: there is no such request or argument, or a value of another type
    """
    from vmm.control.requests import REQUESTS

    request = REQUESTS.get(name)
    if request is None:
        raise ConfigError(f"no request {name!r:.60}", code="control-command", hint="there are: " + ", ".join(REQUESTS))
    kinds = {argument.name: argument.kind for argument in request.arguments}
    values: dict[str, object] = {}
    for word in words:
        key, sign, value = word.partition("=")
        kind = kinds.get(key)
        if not sign or kind is None:
            hint = "it takes " + (", ".join(f"{known}=" for known in kinds) or "none")
            raise ConfigError(f"{name}: no argument {word!r:.60}", code="control-argument", hint=hint)
        if kind == "int" and not value.isdecimal():
            raise ConfigError(f"{name}: {key} is no number: {value!r:.60}", code="control-argument")
        if kind == "bool" and value not in _BOOLS:
            raise ConfigError(f"{name}: {key} is neither true nor false: {value!r:.60}", code="control-argument")
        values[key] = int(value) if kind == "int" else _BOOLS[value] if kind == "bool" else value
    return values


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    if values.request is None:
        sys.stdout.write(_list())
        return 0
    from vmm.cli.snapshot import Progress
    from vmm.control.client import ask

    answer = ask(values.vm, values.request, Progress("done"), **_values(values.request, values.arguments))
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0
