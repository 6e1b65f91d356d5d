"""What containerd does with a shim, without containerd: a pod, and then containers in it, one after the other.

`pod_client.py CONFIG`: CONFIG is JSON: shim (the program), config (the runtime's settings), sandbox and container (the
two bundles), turns. One line of JSON comes out: of each container the nanoseconds from the start of the command that
containerd runs for it to its removal: `ns`, and of that the command: `command_ns`.

With `pods` in CONFIG it makes pods instead, each with one container of that bundle, in a network namespace with an
interface: the nanoseconds from the first command to the start of the container. Before each one the command `pods` has
to say, as JSON, that as many machines are `ready` as it says are `wanted`; empty: there is nothing to wait for. The
shim has to log the words `origin`: where its machine is from. It may be another runtime's, with no such words. Nothing
of the test suite is imported: it runs with the installed pyvmm-kata alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pyvmm_kata.pod import network
from pyvmm_kata.protocol import protobuf, ttrpc

SERVICE = "containerd.task.v2.Task"
EVENTS, EVENTS_SOCKET = "containerd.services.events.ttrpc.v1.Events", "/run/bench-events.sock"
TIMEOUT = 300.0


class Shim:
    """The shim of a pod."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._program = config["shim"]
        self._environment = {**os.environ, "PYVMM_KATA_CONFIG": config["config"]}
        if "pods" in config:
            self._environment["TTRPC_ADDRESS"] = EVENTS_SOCKET
        self._clients: dict[str, ttrpc.Client] = {}

    def start(self, task_id: str, bundle: str) -> ttrpc.Client:
        """Run the command `start` in a bundle; returns a connection to the address that it prints."""
        command = [self._program, "-namespace", "bench", "-id", task_id, "-address", "/run/none.sock"]
        command += ["-publish-binary", "/bin/true", "start"]
        done = subprocess.run(
            command, cwd=bundle, env=self._environment, stdin=-3, stdout=-1, check=True, timeout=TIMEOUT
        )
        address = done.stdout.decode().strip().removeprefix("unix://")
        if address not in self._clients:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
            self._clients[address] = ttrpc.Client(sock, "the shim")
        return self._clients[address]


def call(client: ttrpc.Client, method: str, **fields: Any) -> Any:
    """One method of the Task service."""
    return client.call(SERVICE, method, protobuf.methods(SERVICE)[method][0](**fields), TIMEOUT)


def run_container(shim: Shim, task_id: str, bundle: str) -> dict[str, int]:
    """The whole life of a container: create, start, wait, delete."""
    began = time.monotonic_ns()
    client = shim.start(task_id, bundle)
    known = time.monotonic_ns()
    call(client, "Create", id=task_id, bundle=bundle)
    call(client, "Start", id=task_id)
    status = call(client, "Wait", id=task_id).exit_status
    call(client, "Delete", id=task_id)
    ended = time.monotonic_ns()
    if status:
        raise SystemExit(f"{task_id} ended with {status}")
    return {"ns": ended - began, "command_ns": known - began}


def serve_events() -> None:
    """Take the events of shims, as containerd does, which they tell from then on."""
    if os.path.exists(EVENTS_SOCKET):
        os.unlink(EVENTS_SOCKET)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(EVENTS_SOCKET)
    listener.listen()
    empty = protobuf.message("google.protobuf.Empty")
    server = ttrpc.Server({EVENTS: {"Forward": lambda request, call: empty()}})
    threading.Thread(target=server.serve, args=(listener,), daemon=True).start()


class Network:
    """A process in a network namespace of its own, with an interface as a plugin of CNI makes it."""

    def __init__(self) -> None:
        ready, told = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._make()
                null = os.open(os.devnull, os.O_RDWR)
                for fd in range(3):  # whoever reads what we write would wait for it
                    os.dup2(null, fd)
                os.write(told, b".")
                signal.pause()
            finally:
                os._exit(1)
        os.close(told)
        if not os.read(ready, 1):
            raise SystemExit("no network namespace")
        os.close(ready)
        self.path = f"/proc/{self._pid}/ns/net"

    @staticmethod
    def _make() -> None:
        network.enter("")
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x1002))  # TUNSETIFF; IFF_TAP | IFF_NO_PI
        for words in ("addr add 10.1.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.1.0.1"):
            subprocess.run(["/bin/busybox", "ip", *words.split()], check=True)

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def enter_namespaces(bundle: str, paths: dict[str, str]) -> None:
    """Have a bundle's container be in those namespaces, by their types."""
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] in paths:
            entry["path"] = paths[entry["type"]]
    config.write_text(json.dumps(spec))


def run_pod(config: dict[str, Any], name: str, net: Network) -> int:
    """A pod with a container, from nothing to its removal; the nanoseconds until the container was started."""
    member = f"{name}-app"
    for bundle, task_id in ((config["sandbox"], name), (config["container"], member)):
        path = Path(bundle, "config.json")
        spec = json.loads(path.read_text())
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = name
        spec["linux"]["cgroupsPath"] = f"/bench/{name}/{task_id}"
        path.write_text(json.dumps(spec))
    log = Path(config["sandbox"], "log")
    if not log.exists():
        os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    shim = Shim(config)
    try:
        enter_namespaces(config["sandbox"], {"network": net.path})
        began = time.monotonic_ns()
        client = shim.start(name, config["sandbox"])
        pid = call(client, "Create", id=name, bundle=config["sandbox"]).pid
        call(client, "Start", id=name)
        paths = {kind: f"/proc/{pid}/ns/{kind}" for kind in ("ipc", "uts")}
        enter_namespaces(config["container"], {"network": net.path, **paths})
        client = shim.start(member, config["container"])
        call(client, "Create", id=member, bundle=config["container"])
        call(client, "Start", id=member)
        ns = time.monotonic_ns() - began
        said = os.read(reader, 1 << 16).decode() if config["origin"] else ""
        if config["origin"] not in said:
            raise SystemExit(f"{name}: not {config['origin']}: {said}")
        for task_id in (member, name):
            call(client, "Kill", id=task_id, signal=9, all=True)
            call(client, "Wait", id=task_id)
            call(client, "Delete", id=task_id)
        try:
            call(client, "Shutdown", id=name, now=True)
        except ttrpc.ConnectionLost:
            pass  # it ends at once
    except ttrpc.RpcError as error:
        error.add_note(os.read(reader, 1 << 16).decode(errors="replace"))
        raise
    finally:
        os.close(reader)
    return ns


def wait_until_ready(command: list[str]) -> None:
    """Until as many machines are ready as are wanted."""
    deadline = time.monotonic() + TIMEOUT
    while command:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
        said = json.loads(done.stdout) if done.returncode == 0 else {"wanted": 1, "ready": 0}
        if said["ready"] == said["wanted"]:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"machines are not ready: {said}")
        time.sleep(0.5)


def main(config: dict[str, Any]) -> int:
    """Measure; returns the exit status."""
    if "pods" in config:
        networks = [Network() for _ in range(config["turns"] + 1)]  # while there are no threads
        serve_events()
        pods = []
        try:
            for turn, net in enumerate(networks):
                wait_until_ready(config["pods"])
                time.sleep(2)  # what the one before had is taken apart
                pods.append(run_pod(config, f"pod{turn}", net))
        finally:
            for net in networks:
                net.close()
        print(json.dumps(pods[1:]), flush=True)
        return 0
    shim = Shim(config)
    client = shim.start("pod", config["sandbox"])
    try:
        call(client, "Create", id="pod", bundle=config["sandbox"])
        call(client, "Start", id="pod")
        runs = [run_container(shim, f"c{turn}", config["container"]) for turn in range(config["turns"] + 1)]
        call(client, "Kill", id="pod", signal=9, all=True)
        call(client, "Wait", id="pod")
        call(client, "Delete", id="pod")
    finally:
        call(client, "Shutdown", id="pod", now=True)
    print(json.dumps(runs[1:]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
