"""``pyvmm serve``: the command line of the server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from vmm import VmmError

if TYPE_CHECKING:
    import argparse

    from starlette.types import ASGIApp

    from pyvmm_server.app import Dispatcher
    from pyvmm_server.engine import Engine
    from pyvmm_server.settings import Settings

SUMMARY = "serve sandboxes to clients of E2B"
_PREPARE = "`pyvmm image` stores images; Template.build() of pyvmm_sandbox makes templates"
EPILOG = """\
A template of a client is the name of an image (see `pyvmm image`), a folder with a root file system, or a folder that
Template.build() of pyvmm_sandbox has made. Clients find the server by three variables:

  pyvmm serve --template base=python:3.13-slim
  export E2B_API_URL=http://127.0.0.1:3900 E2B_SANDBOX_URL=http://127.0.0.1:3900 E2B_API_KEY=e2b_0

Sandboxes go on when the server ends; the next one with the same --state finds them.
"""
POSTGRES = ("postgresql://", "postgres://")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    import argparse

    made = argparse.ArgumentParser(
        prog="pyvmm serve",
        description="Serve sandboxes over HTTP, with the interface of E2B.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", metavar="ADDR", help="default: %(default)s; others need --keys")
    add("--port", type=int, default=3900, metavar="N", help="default: %(default)s")
    add(
        "--template",
        action="append",
        default=[],
        metavar="NAME=IMAGE|DIR",
        help="what clients start; they use `base` where they name none",
    )
    add(
        "--keys", default="", metavar="FILE", help="API keys, one a line; default: any key, each with its own sandboxes"
    )
    add(
        "--admin-keys",
        default="",
        metavar="FILE",
        help="keys that may read /metrics; default: with --keys none, else any",
    )
    add("--log-requests", action="store_true", help="a line in the log for each request")
    add(
        "--state",
        action="append",
        default=[],
        metavar="DIR|postgresql://...",
        help="records and files; with PostgreSQL and --engine ray, several servers wait for each other's end, and a "
        "second --state names the folder; default: /var/lib/pyvmm/server, or below ~/.local/share",
    )
    add("--domain", default="", help="sandboxes' own services are PORT-ID.DOMAIN; default: localhost:PORT")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="more names of the server; without --keys, requests under others than loopback and --domain are refused",
    )
    add(
        "--suspend-paused",
        action="store_true",
        help="save paused sandboxes to disk: they use no memory, and survive a restart of the host",
    )
    add("--cpus", type=float, default=1, metavar="N", help="of a sandbox from an image; default: 1")
    add("--memory", type=int, default=512, metavar="MIB", help="likewise; default: %(default)s")
    add("--network", choices=("user", "none"), default="user", help="of sandboxes; default: %(default)s")
    add(
        "--max-sandboxes",
        type=int,
        default=1000,
        metavar="N",
        help="of each key, and as many snapshots and templates; default: %(default)s",
    )
    add("--max-upload", type=int, default=4096, metavar="MIB", help="of a request with files; default: %(default)s")
    add("--max-build", type=float, default=3600, metavar="S", help="of a template's steps; default: %(default)s")
    add("--tls-cert", default="", metavar="FILE", help="serve HTTPS")
    add("--tls-key", default="", metavar="FILE", help="its private key")
    add(
        "--engine",
        choices=("local", "ray", "kubernetes"),
        default="local",
        help="ray: on the nodes of a Ray cluster with the resource pyvmm_memory (MiB); kubernetes: on this node, for "
        "claims of agent-sandbox; default: %(default)s",
    )
    add("--namespace", default="", metavar="NAME", help="of the claims of --engine kubernetes; default: all")
    add("--config", default="", metavar="FILE", help="kata.toml; default: /etc/pyvmm/kata.toml")
    add("--root", default="", metavar="DIR", help="where the states of containers are")
    return made


def main(argv: list[str]) -> int:
    """Serve until a signal; returns the exit status."""
    options = parser().parse_args(argv)
    import sqlite3

    try:
        return _serve(settings_of(options), options)
    except (VmmError, OSError, sqlite3.Error) as error:
        hint = error.hint if isinstance(error, VmmError) else ""
        sys.stderr.write(f"pyvmm serve: {error}\n" + (f"  hint: {hint}\n" if hint else ""))
        return 2


def settings_of(options: argparse.Namespace) -> Settings:
    """
    :raises VmmError: they do not fit together
    """
    from pyvmm_sandbox.template import RECORD, Template
    from pyvmm_server.settings import Settings
    from vmm import ConfigError

    keys = read_keys(options.keys) if options.keys else frozenset()
    if not keys and options.host not in LOOPBACK:
        raise ConfigError(f"everybody could use {options.host}: any key is accepted", hint="name a file by --keys")
    templates = {}
    for text in options.template:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--template {text!r} is not NAME=IMAGE or NAME=DIR")
        if os.path.exists(os.path.join(value, RECORD)):
            value = Template(value).folder
        elif os.path.isdir(value) and not any(os.path.isdir(os.path.join(value, each)) for each in ("bin", "usr")):
            raise ConfigError(f"--template {text!r}: {value} is no template, and no root file system", hint=_PREPARE)
        elif os.path.exists(value):
            value = os.path.abspath(value)
        elif value.startswith((".", "/")):
            raise ConfigError(f"--template {text!r}: there is no {value}", hint="name an image, or a folder")
        templates[name] = value
    folders = [each for each in options.state if not each.startswith(POSTGRES)]
    database = next((each for each in options.state if each.startswith(POSTGRES)), "")
    if database and options.engine != "ray":
        raise ConfigError("records in PostgreSQL need --engine ray", hint="this host's sandboxes are no other server's")
    return Settings(
        state=os.path.abspath(folders[-1] if folders else default_state()),
        database=database,
        templates=templates,
        keys=keys,
        admins=read_keys(options.admin_keys) if options.admin_keys else frozenset(),
        log_requests=options.log_requests,
        domain=options.domain or f"localhost:{options.port}",
        hosts=tuple(options.allow_host),
        suspend_paused=options.suspend_paused,
        cpus=options.cpus,
        memory=options.memory,
        network=options.network,
        most_sandboxes=options.max_sandboxes,
        most_upload=options.max_upload << 20,
        most_build=options.max_build,
        config=options.config,
        root=options.root,
    )


def read_keys(path: str) -> frozenset[str]:
    """Hashes of the keys in a file; lines that begin with # are comments.

    :raises OSError: it cannot be read
    :raises VmmError: it has none
    """
    from pyvmm_server.settings import hash_of
    from vmm import ConfigError

    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    found = frozenset(hash_of(line) for line in lines if line and not line.startswith("#"))
    if not found:
        raise ConfigError(f"{path} has no key", hint="write one a line")
    return found


def default_state() -> str:
    """The folder of the server's records."""
    if os.geteuid() == 0:
        return "/var/lib/pyvmm/server"
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "pyvmm", "server")


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    import functools
    import tempfile

    import uvicorn
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

    from pyvmm_server import traces
    from pyvmm_server.app import make
    from pyvmm_server.logs import LOGGING
    from pyvmm_server.program import Program
    from pyvmm_server.tunnels import Tunnel
    from vmm import restrict_server

    if traces.is_wanted():
        traces.set_up()
    engine = _engine(settings, options)
    app = make(settings, engine)
    # The library's folders for sandboxes are temporary ones, and the next server has to find them.
    os.makedirs(settings.bundles, mode=0o700, exist_ok=True)
    tempfile.tempdir = settings.bundles
    server = Program(
        uvicorn.Config(
            _routed(app, engine, options),
            host=options.host,
            port=options.port,
            http="httptools",
            ws=functools.partial(Tunnel, app, AutoWebSocketsProtocol),  # type: ignore[arg-type]
            ssl_certfile=options.tls_cert or None,
            ssl_keyfile=options.tls_key or None,
            log_config=LOGGING,
            access_log=False,
            server_header=False,
            timeout_keep_alive=310,  # longer than clients keep a connection, so that none is closed under a request
            timeout_graceful_shutdown=3,
        )
    )
    restrict_server()
    server.run()
    # Threads that wait for commands would keep the process. The commands go on without it.
    sys.stderr.flush()
    os._exit(0 if server.started else 1)


def _engine(settings: Settings, options: argparse.Namespace) -> Engine | None:
    """
    :raises VmmError: it cannot be used
    """
    if options.engine == "local":
        return None
    if options.engine == "kubernetes":
        from pyvmm_server.kubernetes.engine import Kubernetes

        return Kubernetes(settings, options.namespace, options.host)
    from pyvmm_server.ray_engine import Ray

    return Ray(settings)


def _routed(app: Dispatcher, engine: Engine | None, options: argparse.Namespace) -> ASGIApp:
    """The application, with the requests of the engine's own clients."""
    if options.engine != "kubernetes":
        return app
    from pyvmm_server.kubernetes.engine import Kubernetes
    from pyvmm_server.kubernetes.router import Router

    assert isinstance(engine, Kubernetes)
    return Router(app, app.sandboxes, engine, options.port)


def program() -> int:
    """The program ``pyvmm-server``."""
    return main(sys.argv[1:])
