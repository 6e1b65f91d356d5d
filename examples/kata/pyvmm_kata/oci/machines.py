"""Folders of virtual machines, beside those of the containers: ``@PID-START``, named after the machine's monitor.

No container can have such a name, and it tells whether the monitor still runs.
"""

from __future__ import annotations

import os
import shutil

from pyvmm_kata import state
from pyvmm_kata.host import mounts


def folder_of(root: str, pid: int) -> str:
    """The folder of a monitor's machine."""
    return os.path.join(root, f"@{pid}-{state.start_time(pid)}")


def sweep(root: str) -> None:
    """Remove the folders of monitors that were killed."""
    for name in os.listdir(root) if os.path.isdir(root) else ():
        pid, _, began = name.removeprefix("@").partition("-")
        if name.startswith("@") and not state.is_alive(int(pid), int(began)):
            folder = os.path.join(root, name)
            mounts.SharedDirectory(folder).remove()
            shutil.rmtree(folder, ignore_errors=True)
