"""What a restore of a container loads when it starts from a process image."""

from __future__ import annotations

import subprocess
import sys

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
