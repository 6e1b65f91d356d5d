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
from pathlib import Path
from typing import Any

from e2b import Sandbox
from e2b.exceptions import SandboxException

from pyvmm_kata.image_store import store as image_store
from pyvmm_sandbox import isolations
from pyvmm_server import command
from tests.sandbox import outside as lab

rootfs, place = sys.argv[1:]
image_store.SYSTEM_STORE = f"{place}/images"
isolations.choose = lambda wanted: "sentry"


def serve(port: int) -> None:
    """Until a signal."""
    places = ["--state", f"{place}/server", "--root", f"{place}/state"]
    sys.exit(command.main([*places, "--template", "base=small-root:1", "--port", str(port)]))


def main() -> None:
    """The client's side."""
    outside = lab.Outside(place)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    image_store.ImageStore().add(rootfs, "small-root:1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = os.fork()
    if not server:
        serve(port)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            threading.Event().wait(0.05)  # only a try shows whether it listens
    client: dict[str, Any] = {
        "api_key": "e2b_0",
        "api_url": f"http://127.0.0.1:{port}",
        "sandbox_url": f"http://127.0.0.1:{port}",
    }
    attacker = (Path(__file__).parents[1] / "sandbox" / "attacker.py").read_text()
    ways = ["http good.test 80", "http other.test 80", f"http {lab.SERVER} 7000", f"http {lab.OTHER} 80"]
    try:
        network: Any = {"allow_out": ["good.test", lab.SERVER], "deny_out": lambda context: [context.all_traffic]}
        with Sandbox.create(network=network, timeout=600, **client) as box:
            box.files.write("/tmp/attacker.py", attacker)
            found = []
            for rules in (None, {"deny_out": [lab.OTHER]}, {"allow_internet_access": False}):
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
        print(json.dumps({"reached": found, "packets": sorted(packets), "refused": refused}))
    finally:
        os.kill(server, 15)
        os.waitpid(server, 0)
        outside.close()


main()
