"""pyvmm as an ordinary installation has it, not an editable one: with the modules beside the programs."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from tools.where import ROOT

SITE = Path(sysconfig.get_path("purelib"))


def install(prefix: Path) -> Path:
    """Make one in *prefix*; returns the path of its `pyvmm`."""
    site = prefix / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    junk = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.o")
    shutil.copytree(Path(ROOT) / "vmm", site / "vmm", ignore=junk)
    for path in (*SITE.glob("*cffi*"), SITE / "cbor2", SITE / "construct", SITE / "elftools"):
        (site / path.name).symlink_to(path)
    (prefix / "bin").mkdir()
    interpreter = os.path.realpath(sys.executable)
    (prefix / "bin/python3").symlink_to(interpreter)
    (prefix / "pyvenv.cfg").write_text(f"home = {os.path.dirname(interpreter)}\n")
    shutil.copy2(Path(ROOT) / "bin/pyvmm", prefix / "bin")
    return prefix / "bin/pyvmm"


# -- waiting for what makes the image of the next start of ``pyvmm``, in the background ------------------------------


def wait_for_image(cache: Path) -> None:
    """Until nothing makes an image in the folder *cache* any more.

    Whoever makes one holds its lock from before the start that takes the last one goes on.
    """
    for lock in cache.glob("warm-*.lock"):
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
