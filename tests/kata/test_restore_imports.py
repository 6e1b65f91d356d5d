"""What a restore of a container loads when it starts from a process image, and what its monitor does not do."""

from __future__ import annotations

import gc
import subprocess
import sys

from pyvmm_kata.protocol import control

LOAD = """
import sys
from pyvmm_kata.entry import MONITOR, load
load(MONITOR)
before = set(sys.modules)
from pyvmm_kata.oci import checkpoint
from pyvmm_kata.errors import VmmError
try:
    checkpoint.checkpoint_folder.read(sys.argv[1])
except VmmError as error:
    print(error.code)
print(sorted(set(sys.modules) - before), sorted({"shutil", "tempfile", "hashlib"} & set(sys.modules)))
"""


def test_a_restore_loads_nothing_that_is_not_in_the_image() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, "/nonexistent"], capture_output=True, text=True, check=True)
    assert done.stdout == "checkpoint-none\n[] []\n"


MESSAGES = """
from pyvmm_kata.entry import MACHINE, load
load(MACHINE)
from pyvmm_kata.protocol import protobuf
made = protobuf.message.cache_info().misses
for service in ("grpc.AgentService", "grpc.Health"):
    protobuf.methods(service)
protobuf.message("ttrpc.Request"), protobuf.message("ttrpc.Response")
print(protobuf.message.cache_info().misses - made)
"""


def test_no_monitor_makes_the_classes_of_the_agents_messages() -> None:
    done = subprocess.run([sys.executable, "-c", MESSAGES], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_forked_monitor_collects_no_garbage_of_its_callers() -> None:
    """A collection would copy each page with an object."""
    told: list[int] = []
    assert gc.isenabled()
    control.fork(
        "the child",
        lambda sock: sock.send(bytes([gc.isenabled()])),
        lambda channel, _: told.append(_read(channel)),
    )
    assert told == [0] and gc.isenabled()


def _read(channel: control.Channel) -> int:
    with open(channel.fileno(), "rb", closefd=False) as file:
        return file.read(1)[0]
