"""pyvmm as an ordinary installation has it, not an editable one: with the modules beside the programs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import sysconfig
import time
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

    Whoever makes one holds its lock from before the start that takes the last one goes on.  On a busy host it takes
    minutes, since it has what nobody else wants of the CPUs: it is hurried.
    """
    for lock in cache.glob("warm-*.lock"):
        with lock.open("rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _hurry(str(lock.resolve()))
                    time.sleep(0.02)
                else:
                    break


def _hurry(lock: str) -> None:
    """Give the process that has a lock at descriptor 3 (LOCK_FD in warm_main.c) the priority of others, if we may."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/3") == lock and os.sched_getscheduler(int(pid)) == os.SCHED_IDLE:
                os.sched_setscheduler(int(pid), os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, int(pid), 0)
                Path(f"/proc/{pid}/autogroup").write_text("0")
