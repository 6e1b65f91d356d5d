"""``pyvmm mcp``: sandboxes as tools for programs that use the Model Context Protocol."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyvmm_mcp import settings as defaults
from vmm import ConfigError, VmmError

if TYPE_CHECKING:
    import argparse
    import socket

    from pyvmm_mcp.settings import Settings

SUMMARY = "serve sandboxes as tools of the Model Context Protocol"
EPILOG = """\
Without --http, the client starts this program and talks to it by standard input and output. The sandboxes end with it,
also when it is killed.

  pyvmm mcp --image python:3.13-slim
  pyvmm mcp --image ./rootfs --network user --http 8000
"""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    made = argparse.ArgumentParser(
        prog="pyvmm mcp",
        description="Serve sandboxes as tools of the Model Context Protocol (MCP).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--image",
        action="append",
        required=True,
        metavar="IMAGE|DIR",
        help="an image, or a folder with a root file system, that clients may use; the first is the default",
    )
    add("--http", default="", metavar="[HOST:]PORT", help="streamable HTTP; on 127.0.0.1 unless HOST is given")
    add("--token-file", default="", metavar="FILE", help="clients over HTTP have to send its content as Bearer token")
    add("--cpus", type=float, default=1.0, metavar="N", help="of each sandbox (%(default)g)")
    add("-m", "--memory", default="512M", metavar="SIZE", help="of each sandbox (%(default)s)")
    add("--network", default="none", choices=("none", "user"), help="of each sandbox (%(default)s)")
    for name, default, words in (
        ("sandboxes", defaults.MAX_SANDBOXES, "sandboxes at a time"),
        ("snapshots", defaults.MAX_SNAPSHOTS, "snapshots at a time"),
        ("output", defaults.MAX_OUTPUT, "characters of each stream of a command's output in an answer"),
        ("file", defaults.MAX_FILE, "bytes of a file that one call reads or writes"),
    ):
        add(f"--max-{name}", type=_positive, default=default, metavar="N", help=f"{words} (%(default)s)")
    for name, seconds, words in (
        ("max", defaults.MAX_TIMEOUT, "that a command may run"),
        ("idle", defaults.IDLE_TIMEOUT, "without a call after which a sandbox is killed"),
    ):
        add(
            f"--{name}-timeout",
            type=_positive,
            default=int(seconds),
            metavar="S",
            help=f"seconds {words} (%(default)s)",
        )
    add("--config", default="", metavar="FILE", help="the settings of the container runtime (kata.toml)")
    add("--root", default="", metavar="DIR", help="where the states of sandboxes are")
    return made


def main(argv: list[str]) -> int:
    """Serve; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        listener, token = listen(options.http, options.token_file)
    except VmmError as error:
        sys.stderr.write(f"pyvmm mcp: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 2
    except OSError as error:
        sys.stderr.write(f"pyvmm mcp: {error}\n")
        return 2
    import asyncio

    from pyvmm_mcp.serving import serve
    from vmm import restrict_server

    restrict_server()
    asyncio.run(serve(settings_of(options), listener, token))
    return 0


def settings_of(options: argparse.Namespace) -> Settings:
    """What the command line allows."""
    return defaults.Settings(
        images=tuple(options.image),
        cpus=options.cpus,
        memory=options.memory,
        network=options.network,
        max_sandboxes=options.max_sandboxes,
        max_snapshots=options.max_snapshots,
        max_output=options.max_output,
        max_file=options.max_file,
        max_timeout=options.max_timeout,
        idle_timeout=options.idle_timeout,
        config=options.config,
        root=options.root,
    )


def listen(address: str, token_file: str) -> tuple[socket.socket | None, str]:
    """The socket for HTTP, and the token of its clients.

    :raises ConfigError: everybody on the network could use it, or the arguments do not fit together
    :raises OSError: the port is in use, or the file cannot be read
    """
    import socket

    if not address:
        if token_file:
            raise ConfigError("--token-file needs --http")
        return None, ""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or LOOPBACK[0]
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--http {address!r} is not [HOST:]PORT")
    token = ""
    if token_file:
        with open(token_file, encoding="ascii") as file:
            token = file.read().strip()
        if not token:
            raise ConfigError(f"{token_file} is empty")
    elif host not in LOOPBACK:
        raise ConfigError(f"everybody who reaches {host} could run programs", hint="name a file by --token-file")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family), token


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def program() -> int:
    """The program ``pyvmm-mcp``."""
    return main(sys.argv[1:])
