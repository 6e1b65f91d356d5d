"""Debian's podman and conmon with pyvmm-oci as their runtime, and what it leaves on the host."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest.kata_tools import BIN, PATIENCE, leftovers, make_rootfs, write_settings
from tools import guest as recipes


class Podman:
    """podman with everything in *folder*, and busybox as the image ``box``.

    :param storage: where images and containers are, if not in *folder*
    :param driver: of the storage; empty: the one that podman takes by itself
    """

    def __init__(self, folder: Path, storage: Path | None = None, driver: str = "") -> None:
        self.folder, self.storage = folder, storage or folder
        settings = write_settings(folder / "kata.toml")
        # Not by --runtime-flag: podman's own clean-up, which conmon starts, does not pass it on
        self.runtime = folder / "pyvmm-oci"
        self.runtime.write_text(f'#!/bin/sh\nexec {BIN}/pyvmm-oci --config {settings} --root {folder}/state "$@"\n')
        self.runtime.chmod(0o755)
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._command = [
            "podman", "--root", f"{self.storage}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            *(["--storage-driver", driver] if driver else []),
        ]  # fmt: skip
        self.add_image("box", make_rootfs(folder / "rootfs"))

    def add_image(self, name: str, rootfs: Path) -> None:
        archive = self.folder / f"{name}.tar"
        subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
        self.check("import", "--signature-policy", str(self._policy), str(archive), name)
        archive.unlink()

    def command(self, *arguments: str, runtime: str = "") -> list[str]:
        return [*self._command, "--runtime", runtime or str(self.runtime), *arguments]

    def run(self, *arguments: str, text: str = "", runtime: str = "") -> subprocess.CompletedProcess[str]:
        """Call it; *runtime* is another one than pyvmm-oci."""
        command = self.command(*arguments, runtime=runtime)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def check(self, *arguments: str, text: str = "", runtime: str = "") -> str:
        done = self.run(*arguments, text=text, runtime=runtime)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def files_of(self, container: str) -> Iterator[Path]:
        """The root file system of a container that has ended."""
        path = Path(self.check("mount", container).strip())
        try:
            yield path
        finally:
            self.check("umount", container)

    def close(self) -> None:
        self.run("rm", "--all", "--force", "--time", "1")
        deadline = time.monotonic() + PATIENCE  # podman clears up behind its back
        while left := [each for each in leftovers(self.folder) if "pyvmm" in each or f"{self.folder}/state" in each]:
            assert time.monotonic() < deadline, left + notes(self.folder)
            time.sleep(0.2)
        # Its storage stays mounted upon itself
        subprocess.run(["umount", "-l", f"{self._command[2]}/overlay"], capture_output=True)


def notes(folder: Path) -> list[str]:
    """What is known of containers whose state is still there."""
    return [f"{path}: {path.read_text(errors='replace')}" for path in folder.glob("state/*/*") if path.is_file()]


def tree(top: Path) -> dict[str, str]:
    """All that is below a directory: kind, rights, owner, links and contents by path."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (".", *folders, *files):
            path = os.path.join(folder, name)
            if name == "." and folder != str(top):
                continue
            info = os.lstat(path)
            words = [stat.filemode(info.st_mode), f"{info.st_uid}:{info.st_gid}"]
            if stat.S_ISLNK(info.st_mode):
                words.append(os.readlink(path))
            elif stat.S_ISREG(info.st_mode):
                content = Path(path).read_bytes()
                words += [f"links={info.st_nlink}", f"{len(content)} bytes", hashlib.sha256(content).hexdigest()[:16]]
            found[os.path.relpath(path, top)] = " ".join(words)
    return found


def install_program(name: str, folder: Path) -> Path:
    """One of tests/guest/programs, in a directory of the host."""
    with tarfile.open(recipes.programs()) as archive:
        source = archive.extractfile(f"usr/local/bin/{name}")
        assert source is not None
        target = folder / name
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    target.chmod(0o755)
    return target
