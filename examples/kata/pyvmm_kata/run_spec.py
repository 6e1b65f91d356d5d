"""config.json for the options of ``pyvmm run``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.settings import ISOLATION, NETWORK, PUBLISH
from pyvmm_kata.bundle.sizes import parse_size
from pyvmm_kata.bundle.writable_layer import DISK
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.pod import network
from vmm import Publish

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvmm_kata.state import Json

PERIOD = 100_000
_PIDS_MOST = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h."""


class Options(NamedTuple):
    """What a container is made of, see ``pyvmm run --help`` for each.

    :ivar pids: how many processes and threads there may be at once; 0: as many as the kernel permits
    :ivar disk: a limit for what is written to its root; empty: none
    :ivar namespace: with network ``user``: the path of the network namespace in which passt runs, instead of the host's
    """

    image: str
    command: list[str]
    tty: bool = False
    volume: Sequence[str] = ()
    publish: Sequence[str] = ()
    env: Sequence[str] = ()
    memory: str = ""
    pids: int = 0
    disk: str = ""
    cpus: float = 0.0
    network: str = "none"
    namespace: str = ""
    hostname: str = ""
    workdir: str = ""
    user: str = ""
    read_only: bool = False


def make_spec(
    options: Options | argparse.Namespace, rootfs: str, process: Json, folder: str, container_id: str
) -> Json:
    """The config.json for the user's options.

    :raises ConfigError: it cannot be
    """
    command = options.command or process.get("args") or []
    if not command:
        raise ConfigError(f"{options.image}: which program?", code="run-command", hint="pyvmm run IMAGE COMMAND")
    spec = default_spec(command, terminal=options.tty, root=rootfs)
    made = spec["process"]
    made["env"] = merge_env(process.get("env") or made["env"], options.env)
    made["cwd"] = options.workdir or process.get("cwd") or "/"
    made["user"] = process.get("user") or made["user"]
    if options.user:
        made["user"] = _user(options.user)
    spec["root"]["readonly"] = options.read_only
    spec["hostname"] = options.hostname or container_id[:63]
    spec["mounts"] += [_volume(text) for text in options.volume]
    spec["linux"]["resources"].update(_limits(options))
    spec["annotations"] = {}
    _set_network(spec, options, folder)
    if getattr(options, "disk", ""):
        spec["annotations"][DISK] = str(parse_size(options.disk, "--disk", "run-disk"))
    if chosen := getattr(options, "isolation", ""):
        spec["annotations"][ISOLATION] = chosen
    return spec


def merge_env(base: list[str], changes: Sequence[str]) -> list[str]:
    """Variables as ``NAME=VALUE``; a ``NAME`` alone among the changes takes its value from this environment, if any."""
    found = dict(entry.partition("=")[::2] for entry in base)
    for entry in changes:
        name, equals, value = entry.partition("=")
        if not name:
            raise ConfigError(f"--env {entry!r} has no name", code="run-env")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return [f"{name}={value}" for name, value in found.items()]


def _user(text: str) -> Json:
    ids = text.split(":")
    if len(ids) > 2 or not all(part.isascii() and part.isdigit() for part in ids):
        raise ConfigError(f"--user {text!r} is not UID[:GID]", code="run-user", hint="by number")
    return {"uid": int(ids[0]), "gid": int(ids[-1]) if len(ids) > 1 else 0}


def _volume(text: str) -> Json:
    source, _, rest = text.partition(":")
    target, _, flags = rest.partition(":")
    if not source or not target.startswith("/") or flags not in ("", "ro", "rw"):
        raise ConfigError(f"--volume {text!r} is not DIR:PATH[:ro]", code="run-volume", hint="-v ./site:/srv:ro")
    options = ["rbind", "nosuid", "nodev", *([flags] if flags else [])]
    return {"destination": target, "type": "bind", "source": os.path.abspath(source), "options": options}


def _limits(options: Options | argparse.Namespace) -> Json:
    limits: Json = {}
    if options.memory:
        limit = parse_size(options.memory, "--memory", "run-memory")
        if not limit:
            raise ConfigError("--memory 0 is no limit", code="run-memory", hint="for example 256M")
        limits["memory"] = {"limit": limit}
    if options.cpus:
        if not 0.01 <= options.cpus <= 1024:
            raise ConfigError(f"--cpus {options.cpus:g} is not 0.01 to 1024", code="run-cpus")
        limits["cpu"] = {"quota": int(options.cpus * PERIOD), "period": PERIOD}
    if getattr(options, "pids", 0):
        if not 0 < options.pids <= _PIDS_MOST:
            raise ConfigError(f"{options.pids} processes are not 1 to {_PIDS_MOST}", code="run-pids")
        limits["pids"] = {"limit": options.pids}
    return limits


def _enter(spec: Json, namespace: str) -> None:
    """
    :param namespace: the path of a network namespace; empty: a new one
    """
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] == "network" and namespace:
            entry["path"] = namespace


def _set_network(spec: Json, options: Options | argparse.Namespace, folder: str) -> None:
    if options.publish and options.network != "user":
        raise ConfigError("--publish is of --network user", code="run-network")
    resolver = network.USER_DNS
    if options.network == "user":
        for text in options.publish:
            Publish.parse(text)
        spec["annotations"] = {NETWORK: "user", PUBLISH: " ".join(options.publish)}
        _enter(spec, getattr(options, "namespace", ""))
    elif options.network != "none":
        if not options.network.startswith("/"):
            raise ConfigError(
                f"--network {options.network!r} is not user, none or the path of a namespace", code="run-network"
            )
        _enter(spec, options.network)
        resolver = ""
    files = {
        "hostname": f"{spec['hostname']}\n",
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {spec['hostname']}\n",
    }
    if options.network == "user":
        files["resolv.conf"] = f"nameserver {resolver}\n"
    for name, text in files.items():
        path = os.path.join(folder, name)
        with open(path, "w") as file:
            file.write(text)
        spec["mounts"].append(
            {"destination": f"/etc/{name}", "type": "bind", "source": path, "options": ["rbind", "nosuid", "nodev"]}
        )
