"""conmon(8), which podman has between itself and a runtime: it is the parent of a container's face.

It looks at the control group of the container's pid to hear that a process was killed for want of memory, which happens
inside of the guest where nothing is seen of it on the host.  So the runtime makes the files that podman looks for.
"""

from __future__ import annotations

import os

_PERSIST = b"--persist-dir"
_FILE = "oom"


def tell_oom(bundle: str, pid: int) -> None:
    """Make the file by which podman knows that a container was killed for want of memory; none without conmon.

    :param bundle: the container's
    :param pid: of the container's face
    """
    # It has a pipe in the bundle; podman looked there until version 5
    folders = [bundle] if os.path.exists(os.path.join(bundle, "ctl")) else []
    folders += _persist_folders(pid)
    for folder in folders:
        try:
            os.close(os.open(os.path.join(folder, _FILE), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            pass  # it is removed just now


def _persist_folders(pid: int) -> list[str]:
    """What conmon was given as its folder for the container, if the parent of *pid* is one (none or one)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        with open(f"/proc/{parent}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except (OSError, ValueError, IndexError):
        return []
    if os.path.basename(words[0]) != b"conmon" or _PERSIST not in words[:-1]:
        return []
    folder = os.fsdecode(words[words.index(_PERSIST) + 1])
    return [folder] if os.path.isabs(folder) else []  # another one is below a folder of conmon's, not of ours
