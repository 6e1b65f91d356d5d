"""The root file system that both programs run from in the lab, as one tar file.

The lab sees the host's files over 9p, where every look-up is slow and is not what is to be measured. So everything that
runs, its libraries and all that it reads go into one archive, at their own paths, and the lab unpacks it into a tmpfs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

UNUSED = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "lib2to3"}
"""Folders of the standard library that nothing here imports."""


class StageError(Exception):
    """Something that has to be in the archive is not there."""


def libraries(programs: Iterable[str]) -> set[str]:
    """Every shared library, the loader included, that the dynamic ELF files `programs` are linked with."""
    found: set[str] = set()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True)
        if "not found" in listing.stdout:
            raise StageError(f"{program}: a library is missing:\n{listing.stdout}")
        found |= set(re.findall(r"(/\S+) \(0x", listing.stdout))
    return found


class Stage:
    """Collects files; each is stored at the path it has here unless `at` says otherwise."""

    def __init__(self, archive: Path) -> None:
        archive.parent.mkdir(parents=True, exist_ok=True)
        self._archive = archive
        self._names: set[str] = set()
        self._tar = tarfile.open(archive, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - close() does it
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                self._tar.add(f"/{name}", name)

    def add(self, path: str | Path, at: str = "") -> None:
        """A file or a tree; a link goes in as it is, with what it points to."""
        folder, base = os.path.split(os.path.abspath(path))
        full = os.path.join(os.path.realpath(folder), base)
        name = (at or full).lstrip("/")
        if name in self._names:
            return
        self._names.add(name)
        if not os.path.lexists(full):
            raise StageError(f"{full}: no such file")
        if os.path.islink(full) and at:
            full = os.path.realpath(full)
        self._tar.add(full, name, filter=_wanted)
        if os.path.islink(full):
            self.add(os.path.join(os.path.dirname(full), os.readlink(full)))

    def add_program(self, path: str) -> None:
        """An executable or a shared object, and what it is linked with."""
        self.add(path)
        self.add_libraries([path])

    def add_libraries(self, programs: Iterable[str]) -> None:
        """What `programs` are linked with."""
        for library in sorted(libraries(programs)):
            self.add(library)

    def close(self) -> Path:
        """Finish the archive and return its path."""
        self._tar.close()
        return self._archive


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = member.name.split("/")
    if "python3" in member.name and parts[-1] in UNUSED and "site-packages" not in parts:
        return None
    return member


def python_files(interpreter: str) -> tuple[str, list[str]]:
    """The standard library's folder of `interpreter`, and its extension modules."""
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    done = subprocess.run([interpreter, "-ISc", code], capture_output=True, text=True, check=True)
    folder = done.stdout.strip()
    return folder, [str(path) for path in sorted(Path(folder, "lib-dynload").glob("*.so"))]
