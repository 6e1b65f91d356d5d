"""A command of ``pyvmm`` for machines, which run nothing here: ``machines_program.py COMMAND [ARGUMENT]...``"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "examples" / "kata")]
    from pyvmm_kata.pod import sandbox
    from tests.kata.fake_agent import boot_fake
    from vmm.cli.plugins import entry_points

    sandbox.boot_vm = boot_fake
    name = sys.argv[1]
    sys.exit(importlib.import_module(entry_points()[name]).main(sys.argv[2:]))
