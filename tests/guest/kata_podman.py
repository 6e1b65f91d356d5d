"""Debian's podman and conmon with pyvmm-oci as their runtime, and what it leaves on the host."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest.kata_tools import BIN, PATIENCE, leftovers, make_rootfs, write_settings
from tools import guest as recipes


class Podman:
    """podman with everything in *folder*, and busybox as the image ``box``.

    :param storage: where images and containers are, if not in *folder*
    :param driver: of the storage; empty: the one that podman takes by itself
    :param program: another runtime than pyvmm-oci with the kernel of the tests
    """

    def __init__(self, folder: Path, storage: Path | None = None, driver: str = "", program: str = "") -> None:
        self.folder, self.storage = folder, storage or folder
        if not program:
            program = f"{BIN}/pyvmm-oci --config {write_settings(folder / 'kata.toml')}"
        # Not by --runtime-flag: podman's own clean-up, which conmon starts, does not pass it on
        self.runtime = folder / "runtime"
        self.runtime.write_text(f'#!/bin/sh\nexec {program} --root {folder}/state "$@"\n')
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


# -- programs as users have them in containers: servers and tools of Debian's, from one root file system -------------


class Stage:
    """Where one runtime plays: a root file system, each container with a layer of its own upon it.

    :param runtime: empty for pyvmm-oci
    :ivar volumes: a folder of this runtime's, for what a container gets of the host
    """

    def __init__(self, podman: Podman, rootfs: Path, runtime: str, name: str, port: int) -> None:
        self._podman = podman
        self.rootfs = rootfs
        self._runtime = runtime
        self.name = f"{name}-{runtime or 'ours'}"
        self.port = port
        self.volumes = podman.storage / self.name
        self.volumes.mkdir()

    def folder(self, name: str) -> Path:
        """A folder of the host."""
        made = self.volumes / name
        made.mkdir()
        return made

    def run(self, *options: str, command: tuple[str, ...]) -> str:
        """Run a program to its end; what it printed, and its status."""
        return self._said("run", "--rm", *options, "--rootfs", f"{self.rootfs}:O", *command)

    def start(self, *options: str, command: tuple[str, ...]) -> None:
        """Run the container in the background."""
        rootfs = f"{self.rootfs}:O"
        self._podman.check(
            "run", "--detach", "--name", self.name, *options, "--rootfs", rootfs, *command, runtime=self._runtime
        )

    def exec(self, script: str, *options: str, text: str = "") -> str:
        """Run a script of the shell's in it; what it printed, and its status."""
        return self._said("exec", "-i", *options, self.name, "sh", "-c", script, text=text)

    def stop(self) -> str:
        """Stop it; its status."""
        self.podman("stop", "--time", "100")
        return self.podman("inspect", "--format", "{{.State.ExitCode}}")

    def podman(self, verb: str, *options: str) -> str:
        """Have podman do something with it."""
        return self._podman.check(verb, *options, self.name, runtime=self._runtime)

    def remove(self) -> None:
        """It is gone, whatever it was doing."""
        self._podman.run("rm", "--force", "--time", "5", "--ignore", self.name, runtime=self._runtime)

    def fetch(self, path: str) -> str:
        """What its server says at a port of the host's: as soon as it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                return f"{error.code}"
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{error}\n{self._said('logs', self.name)}") from error
            time.sleep(0.2)

    def until(self, script: str, patience: float = PATIENCE) -> None:
        """Wait until a script succeeds in it."""
        deadline = time.monotonic() + patience
        while not (said := self.exec(script)).endswith("\n= 0"):
            over = time.monotonic() > deadline or "running" not in self.podman(
                "inspect", "--format", "{{.State.Status}}"
            )
            assert not over, f"{said}\n{self._said('logs', self.name)}"
            time.sleep(0.5)

    def _said(self, *arguments: str, text: str = "") -> str:
        done = self._podman.run(*arguments, text=text, runtime=self._runtime)
        return f"{done.stdout}{done.stderr}\n= {done.returncode}"
