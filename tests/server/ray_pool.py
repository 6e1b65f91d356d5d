"""A program that has sandboxes on the nodes of a Ray cluster: ``ray_pool.py PLACE KEEPERS``.

:data:`KEEPERS` are the main processes of the nodes, of which it kills one.  It prints what it has found.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import ray

import pyvmm_sandbox.ray
from pyvmm_sandbox.errors import SandboxError
from pyvmm_sandbox.ray import NodeSandbox, NodeSandboxes, SandboxPool
from tests.server import fake_machines

PLACE, KEEPERS = sys.argv[1], json.loads(sys.argv[2])


class FakeSandboxes(NodeSandboxes):
    """With machines that run their programs on this host."""

    def __init__(self, place: str = PLACE) -> None:
        fake_machines.install(place)
        super().__init__()


def error_of(call: Any, *args: Any, **options: Any) -> list[str]:
    """The kind and the words of an error."""
    try:
        call(*args, **options)
    except (SandboxError, OSError, AttributeError) as error:
        return [type(error).__name__, str(error)[:40], str(getattr(getattr(error, "result", None), "stdout", ""))]
    raise AssertionError("no error")


def until_lost(box: NodeSandbox) -> str:
    """The kind of the error when the node has ended."""
    while True:
        try:
            box.run("true")
        except SandboxError as error:
            return type(error).__name__


def main() -> None:
    """The program."""
    library: Any = ray
    library.init("auto", log_to_driver=False)
    pyvmm_sandbox.ray.NodeSandboxes = FakeSandboxes  # type: ignore[misc]
    found: dict[str, Any] = {}
    where = {"config": f"{PLACE}/kata.toml", "root": f"{PLACE}/state", "network": "none"}
    with SandboxPool(f"{PLACE}/rootfs", memory=1024, **where) as pool:
        boxes = [pool.start() for _ in range(12)]
        found["nodes"] = sorted([each.node for each in boxes].count(node) for node in KEEPERS)
        found["full"] = error_of(pool.start)
        found["outputs"] = [each.run(f"echo {number}").stdout for number, each in enumerate(boxes)]
        boxes[0].files.write(f"{PLACE}/files/a", "text")
        found["file"] = boxes[1].files.read_text(f"{PLACE}/files/a")
        found["errors"] = [
            error_of(boxes[0].run, "echo out; exit 3", check=True)[:1],
            error_of(boxes[0].run, "echo out; sleep 60", timeout=1)[::2],
            error_of(boxes[0].files.read, f"{PLACE}/files/none")[:1],
            error_of(lambda: boxes[0].popen)[:1],
        ]
        boxes[11].kill()
        beside = [each for each in boxes if each.node == boxes[11].node and each is not boxes[11]]
        (copy,) = beside[0].fork()
        found["copy"] = [copy.run("echo copied").stdout, copy.node == beside[0].node]
        found["no room"] = error_of(beside[0].fork)[:1]
        os.kill(KEEPERS[boxes[0].node], signal.SIGKILL)
        found["lost"] = until_lost(boxes[0])
        rest = [each for each in boxes[:11] if each.node != boxes[0].node]
        rest[0].kill()
        found["after"] = [each.run("echo on").stdout for each in rest[1:]]
        found["again"] = pool.start().node != boxes[0].node
    found["closed"] = error_of(pool.start)[:1]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
