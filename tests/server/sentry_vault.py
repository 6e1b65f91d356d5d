"""Secrets and volumes for sandboxes on the Sentry, whose network is a test's: ``sentry_vault.py ROOTFS PLACE``.

It prints what E2B's client and the servers outside have seen.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from e2b import Sandbox, Secret, Volume
from e2b.exceptions import SandboxException

from pyvmm_kata.image_store import store as image_store
from tests.sandbox import outside as lab
from tests.server import sentry_server

VALUE = "sk-0123456789-never-inside"
ASK = """
import json, sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    request = urllib.request.Request(url, headers={"Authorization": "mine", "X-Other": "kept"})
    try:
        with urllib.request.urlopen(request) as answer:
            print(json.dumps([answer.status, answer.headers["X-Echo"]]))
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, error.read().decode()]))
"""
place = sentry_server.place


def secrets(client: dict[str, Any], key: dict[str, Any], outside: lab.Outside) -> dict[str, Any]:
    """A header with a secret, for one host and no other."""
    Secret.create("token", "an older value", **key)
    Secret.update("token", VALUE, **key)
    header = {"Authorization": f"Bearer {Secret.fill('token')}"}
    rules: Any = {"good.test": [{"transform": {"headers": header}}]}
    network: Any = {"rules": rules, "allow_out": lambda context: [*context.rules, "evil.test"]}
    with Sandbox.create(network=network, timeout=600, **client) as box:
        box.files.write("/tmp/ask.py", ASK)
        outside.arrived()
        urls = "https://good.test/one http://good.test/two http://evil.test/three"
        found = box.commands.run(f"python3 /tmp/ask.py {urls}", user="root", cwd="/tmp", timeout=300)
        inside = box.commands.run(
            "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true", user="root", cwd="/tmp"
        ).stdout
    requests = {each["path"]: each["headers"] for each in outside.arrived()["requests"]}
    refused = ""
    try:
        Sandbox.create(
            network={"rules": {"good.test": [{"transform": {"headers": {"A": Secret.fill("no")}}}]}}, **client
        )
    except SandboxException as error:
        refused = str(error)
    return {
        "sent": {path: (headers["Authorization"], headers["X-Other"]) for path, headers in requests.items()},
        "answers": [json.loads(line) for line in found.stdout.splitlines()],
        "shown": VALUE in found.stdout + inside,
        "refused": refused,
    }


def volumes(client: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    """A volume that two sandboxes share, and that outlives them and a kill -9 of the server."""
    volume = Volume.create("shared", **key)
    where: Any = {"volume_mounts": {"/data": volume}, "timeout": 600, **client}
    with Sandbox.create(**where) as first, Sandbox.create(**{**where, "volume_mounts": {"/mnt/v": "shared"}}) as second:
        first.commands.run("echo one > /data/one", user="root", cwd="/tmp")
        second.commands.run("echo two >> /mnt/v/one", user="root", cwd="/tmp")
        both = first.files.read("/data/one")
        try:
            Volume.destroy(volume.volume_id, **key)
            kept = False
        except Exception as error:
            kept = "is mounted" in str(error)
    return {"both": both, "kept": kept, "id": volume.volume_id}


def main() -> None:
    """The client's side."""
    outside = lab.Outside(place)
    os.environ["SSL_CERT_FILE"] = f"{place}/authority.pem"  # what the gateway trusts
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    image_store.ImageStore().add(sentry_server.rootfs, "small-root:1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = sentry_server.start(port)
    key: dict[str, Any] = {"api_key": "e2b_0", "api_url": f"http://127.0.0.1:{port}"}
    client = {**key, "sandbox_url": key["api_url"]}
    try:
        found = {"secrets": secrets(client, key, outside), "volumes": volumes(client, key)}
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        server = sentry_server.start(port)
        with Sandbox.create(volume_mounts={"/data": "shared"}, timeout=600, **client) as box:
            found["volumes"]["after"] = box.files.read("/data/one")
        volume_id = found["volumes"].pop("id")
        found["volumes"]["destroyed"] = Volume.destroy(volume_id, **key)
        found["volumes"]["left"] = os.listdir(f"{place}/server/volumes")
        found["secrets"]["kept"] = Path(place, "server", "server.db").stat().st_mode & 0o77
        print(json.dumps(found))
    finally:
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)
        outside.close()


if __name__ == "__main__":
    main()
