"""Compiles the program that runs inside each sandbox.  setup.py calls it, and tools/deps.py."""

from __future__ import annotations

import glob
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NAME = "pyvmm-box"
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-Os", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-static", "-s")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")


def build_program(folder: str) -> None:
    """Compile it into *folder*; static, since an image may have another C library, or none.

    CalledProcessError if it cannot be compiled.
    """
    compiler = os.environ.get("CC", "cc").split()[0]
    target = os.path.join(folder, NAME)
    sources = sorted(glob.glob(os.path.join(HERE, "*.c")))
    subprocess.run([compiler, *FLAGS, *WARNINGS, "-o", f"{target}.new", *sources], check=True)
    os.replace(f"{target}.new", target)


if __name__ == "__main__":
    build_program(sys.argv[1])
