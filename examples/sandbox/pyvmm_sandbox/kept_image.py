"""The stored image of a template: the store may remove it, and the template must not depend on that."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from pyvmm_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "root.erofs"


def keep(saved: str, bundle: str) -> None:
    """Link the image that is the root of *bundle* into the folder *saved*, or copy it from another file system.

    :raises SandboxError: it has been removed, or cannot be copied
    """
    path = _read(bundle)["root"]["path"]
    if not os.path.isabs(path) or os.path.isdir(path):
        return  # it is a copied folder, or one that is read-only
    try:
        os.link(path, os.path.join(saved, ROOT))
        return
    except FileNotFoundError as error:
        raise SandboxError(f"{path}, the image of the sandbox, has been removed") from error
    except OSError:
        pass  # another file system, or one without links
    command = ["cp", "--preserve=timestamps", "--reflink=auto", "--", path, os.path.join(saved, ROOT)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"the image of the sandbox cannot be copied: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def in_use(saved: str, bundle: str) -> Iterator[None]:
    """The root of *bundle* is the image of the template *saved*, if it has one, which is not removed meanwhile.

    It is the file of the store while that is there: other machines share its pages.
    """
    kept = os.path.join(saved, ROOT)
    if not os.path.exists(kept):
        yield
        return
    spec = _read(bundle)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(spec["root"]["path"], "rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
            is_there = _identity(spec["root"]["path"]) == _identity(kept)
        except OSError:
            is_there = False
        if not is_there:
            spec["root"]["path"] = kept
            with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as config:
                config.write(json.dumps(spec))
        yield


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _read(bundle: str) -> dict[str, Any]:
    with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found
