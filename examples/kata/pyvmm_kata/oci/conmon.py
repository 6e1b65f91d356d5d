"""Files for conmon(8), which podman runs between itself and a runtime: it is the parent of a container's face.

conmon watches the control group of the container's pid for processes that are killed because memory ran out.  That
happens in the guest, where the host's control group shows nothing of it, so the runtime makes the files that podman
looks for.
"""

from __future__ import annotations

import os

_PERSIST = b"--persist-dir"
_FILE = "oom"


def tell_oom(bundle: str, pid: int) -> None:
    """Make the file by which podman knows that a container ran out of memory; without conmon, do nothing.

    :param bundle: the container's
    :param pid: of the container's face
    """
    # conmon's pipe is in the bundle; podman before version 5 looks for the file there
    folders = [bundle] if os.path.exists(os.path.join(bundle, "ctl")) else []
    folders += _persist_folders(pid)
    for folder in folders:
        try:
            os.close(os.open(os.path.join(folder, _FILE), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            pass  # it is being removed


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
    return [folder] if os.path.isabs(folder) else []  # a relative one is below conmon's working directory
