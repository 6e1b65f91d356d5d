"""A root with some programs of the host, their libraries, and Python's own modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

PYTHON = "/usr/bin/python3"
PROGRAMS = (
    *("bash", "dash", "cat", "chmod", "cut", "env", "false", "head", "mkdir", "mkfifo", "readlink", "seq", "sleep"),
    *("sort", "stat", "timeout", "touch", "tr", "true", "wc", "yes"),
)
_SKIPPED = ("__pycache__", "test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "config-*", "pydoc_data")


def copy(root: Path, path: str) -> None:
    """Copy a file that is not there yet. A link to a file of the same folder is copied with its target."""
    target = root / path.lstrip("/")
    if os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aim = os.readlink(path) if os.path.islink(path) else "/"
    if "/" in aim:
        shutil.copy2(path, target)
        return
    target.symlink_to(aim)
    copy(root, os.path.join(os.path.dirname(path), aim))


def _libraries(path: Path) -> set[str]:
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", listed))


def start(root: Path) -> None:
    """Fill a folder with the programs that shells need, without their libraries."""
    for name in ("dev", "proc", "sys", "tmp", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/bin/sh").symlink_to("dash")
    for name in PROGRAMS:
        copy(root, f"/usr/bin/{name}")


def add_libraries(root: Path, files: Iterable[Path]) -> None:
    """Copy the libraries of programs and of other libraries."""
    for library in sorted(set().union(*map(_libraries, files))):
        copy(root, library)


def add_python(root: Path) -> None:
    """Copy Python and its own modules, without the libraries of either."""
    copy(root, PYTHON)
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    modules = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    shutil.copytree(modules, root / modules.lstrip("/"), ignore=shutil.ignore_patterns(*_SKIPPED), symlinks=True)


def make(root: Path) -> Path:
    """Fill a folder with programs and Python; returns it."""
    start(root)
    add_python(root)
    add_libraries(root, [*(root / "usr/bin").iterdir(), *root.rglob("*.so")])
    return root
