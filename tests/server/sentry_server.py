"""``pyvmm serve`` with sandboxes on the Sentry, whose network is a test's: ``sentry_server.py ROOTFS PLACE``.

It prints what E2B's client sees, with the rules of a sandbox's network and after their change.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2b import Sandbox
from e2b.exceptions import SandboxException

from pyvmm_kata.image_store import store as image_store
from pyvmm_sandbox import isolations
from pyvmm_server import command
from tests.sandbox import outside as lab

rootfs, place = sys.argv[1:3]
image_store.SYSTEM_STORE = f"{place}/images"
isolations.choose = lambda wanted: "sentry"
BEHIND_RESTART: Any = {"allow_internet_access": False}
"""The rules that the next server sets, which finds the sandbox."""


def serve(port: int, *options: str) -> None:
    """Until a signal."""
    places = ["--state", f"{place}/server", "--root", f"{place}/state"]
    sys.exit(command.main([*places, "--template", "base=small-root:1", "--port", str(port), *options]))


def start(port: int, log: int = 2, *options: str) -> int:
    """The process of a server that listens.

    :param log: the descriptor for what it prints
    """
    server = os.fork()
    if not server:
        os.dup2(log, 2)
        serve(port, *options)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return server
        except OSError:
            threading.Event().wait(0.05)  # only a try shows whether it listens


def free_port() -> int:
    """A TCP port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def prepare() -> tuple[int, dict[str, Any]]:
    """Make the image; a port for a server, and what its clients need."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    image_store.ImageStore().add(rootfs, "small-root:1")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    return port, {"api_key": "e2b_0", "api_url": url, "sandbox_url": url}


@contextmanager
def serving(*options: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server that prints to the file ``log`` of this place, until the end of the block: its process, and what its
    clients need."""
    port, client = prepare()
    server = start(port, os.open(f"{place}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND), *options)
    try:
        yield server, client
    finally:
        os.kill(server, 15)
        os.waitpid(server, 0)


def main() -> None:
    """The client's side."""
    outside = lab.Outside(place)
    port, client = prepare()
    server = start(port)
    attacker = (Path(__file__).parents[1] / "sandbox" / "attacker.py").read_text()
    ways = ["http good.test 80", "http other.test 80", f"http {lab.SERVER} 7000", f"http {lab.OTHER} 80"]
    try:
        network: Any = {"allow_out": ["good.test", lab.SERVER], "deny_out": lambda context: [context.all_traffic]}
        with Sandbox.create(network=network, timeout=600, **client) as box:
            box.files.write("/tmp/attacker.py", attacker)
            found = []
            for rules in (None, {"deny_out": [lab.OTHER]}, BEHIND_RESTART):
                if rules == BEHIND_RESTART:
                    os.kill(server, 9)
                    os.waitpid(server, 0)
                    server = start(port)
                if rules is not None:
                    box.update_network(rules)
                words = " ".join(f'"{way}"' for way in ways)
                done = box.commands.run(f"python3 /tmp/attacker.py {words}", user="root", cwd="/tmp", timeout=300)
                found.append([line.split(" -> ")[0] for line in done.stdout.splitlines() if line.endswith("reached")])
        packets = {tuple(each) for each in outside.arrived()["packets"]}
        refused = []
        wrong: Any = ({"allow_out": ["127.0.0.1"]}, {"allow_out": ["10.0.0.0/8"]}, {"deny_out": ["evil.test"]})
        for bad in wrong:
            try:
                Sandbox.create(network=bad, **client).kill()
            except SandboxException as error:
                refused.append(str(error)[:3])
        left = os.listdir(f"{place}/server/bundles")
        print(json.dumps({"reached": found, "packets": sorted(packets), "refused": refused, "left": left}))
    finally:
        os.kill(server, 15)
        os.waitpid(server, 0)
        outside.close()


if __name__ == "__main__":
    main()
