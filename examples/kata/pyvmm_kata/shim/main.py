"""The command ``containerd-shim-pyvmm-v2``: what containerd calls; people do not."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError, VmmError
from pyvmm_kata.shim import bootstrap
from pyvmm_kata.shim.bootstrap import Arguments

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

USAGE = "usage: containerd-shim-pyvmm-v2 -namespace NAME -id ID -address PATH [-bundle DIR] start|delete, or -v"
WITH_VALUE = ("namespace", "id", "address", "bundle", "publish-binary", "socket", "debug-socket")
WITHOUT_VALUE = ("debug", "v", "info")


def parse(words: Sequence[str]) -> tuple[dict[str, str], str]:
    """Flags in the syntax of Go's package `flag`, and the action. Raises ConfigError."""
    flags: dict[str, str] = {}
    left = list(words)
    while left and left[0].startswith("-"):
        name, equals, value = left.pop(0).lstrip("-").partition("=")
        if name in WITHOUT_VALUE:
            flags[name] = value or "true"
        elif name not in WITH_VALUE:
            raise ConfigError(f"-{name} is not known; {USAGE}", code="usage")
        elif equals:
            flags[name] = value
        elif left:
            flags[name] = left.pop(0)
        else:
            raise ConfigError(f"-{name} has no value; {USAGE}", code="usage")
    if len(left) > 1:
        raise ConfigError(f"{left[1]!r} is too much; {USAGE}", code="usage")
    return flags, left[0] if left else ""


def arguments_of(flags: dict[str, str]) -> Arguments:
    """Their values, with the environment and the working directory."""
    version_text = os.environ.get("MAX_SHIM_VERSION", "2")
    return Arguments(
        task_id=flags.get("id", ""),
        namespace=flags.get("namespace", ""),
        address=flags.get("address", ""),
        # containerd starts us in the bundle, and passes its path only to `delete`
        bundle=flags.get("bundle", "") or os.getcwd(),
        events=os.environ.get("TTRPC_ADDRESS", ""),
        version=int(version_text) if version_text.isdigit() else 2,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Do what containerd requests; returns the exit status."""
    try:
        flags, action = parse(sys.argv[1:] if words is None else words)
        if "v" in flags:
            from importlib.metadata import version

            print(f"containerd-shim-pyvmm-v2:\n  Version:  {version('pyvmm-kata')}")
            return 0
        arguments = arguments_of(flags)
        if action == "start":
            bootstrap.check(arguments)
            answer = bootstrap.start(arguments, lambda place, listener: _serve(arguments, place, listener))
            sys.stdout.write(answer)
            sys.stdout.flush()
        elif action == "delete":
            bootstrap.check(arguments)
            sys.stdout.buffer.write(bootstrap.delete(arguments))
            sys.stdout.flush()
        else:
            raise ConfigError(f"{action!r} is no action; {USAGE}" if action else USAGE, code="usage")
    except VmmError as error:
        print(f"containerd-shim-pyvmm-v2: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(arguments: Arguments, place: bootstrap.Place, listener: socket.socket) -> None:
    from pyvmm_kata.shim import server

    server.serve(arguments, place, listener)
