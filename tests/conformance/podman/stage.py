"""podman with everything in a folder, one runtime, and small images made of busybox."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conformance.suite import Observation
from tests.guest.kata_tools import make_rootfs

if TYPE_CHECKING:
    from tests.conformance.podman.script import Line

PROGRAMS = Path(__file__).parents[1] / "programs"
LIMIT = 180.0
"""Seconds for a command."""
PATIENCE = 60.0
"""Seconds until what is waited for has to be there."""
REPLACED = (
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    (r"\b\d{4}-\d\d-\d\d[T ][0-9:.]+( ?[+-]\d\d:?\d\d( \w+)?|Z)?", "<time>"),
    (r"\b10\.\d+\.\d+\.\d+\b", "<address>"),
)
"""What differs between any two containers."""
CHANGES = (
    "CMD echo of the image", "ENV FROM_IMAGE=1", "WORKDIR /var", "USER 1234:56", "LABEL of=image", "STOPSIGNAL SIGUSR1",
    "VOLUME /volume", "EXPOSE 80",
)  # fmt: skip


class Stage:
    """One runtime."""

    def __init__(self, runtime: str, command: Sequence[str], folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        wrapper = folder / f"oci-{runtime}"
        # podman's clean-up, which conmon starts, does not pass on what --runtime-flag says
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} --root {folder}/state "$@"\n')
        wrapper.chmod(0o755)
        policy = folder / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self.command = [
            "podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--network-config-dir", f"{folder}/networks", "--runtime", str(wrapper),
        ]  # fmt: skip
        root = make_rootfs(folder / "rootfs")
        (root / "etc" / "passwd").write_text(
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\nuser:x:7:8::/tmp:/bin/sh\n"
        )
        (root / "etc" / "group").write_text("root:x:0:\nusers:x:8:\nmore:x:9:user\n")
        (root / "usr").mkdir()
        program = root / "bin" / "connect"
        compiler = [os.environ.get("CC", "gcc"), "-O2", "-static", "-o", str(program)]
        subprocess.run([*compiler, str(PROGRAMS / "inside.c")], check=True)
        (root / "bin" / "lock").hardlink_to(program)
        (root / "var" / "lib" / "d").mkdir(parents=True)
        (root / "var" / "lib" / "d" / "of-image").write_text("of the image\n")
        archive = folder / "box.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        self.check("import", "--signature-policy", str(policy), str(archive), "box")
        more = [word for change in CHANGES for word in ("--change", change)]
        self.check("import", "--signature-policy", str(policy), *more, str(archive), "full")
        archive.unlink()
        self._scenes = 0
        self.seen: Observation = {}
        """What was seen in the last scene, as far as it came."""

    def check(self, *words: str) -> None:
        """A command that has to succeed."""
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=4 * LIMIT)
        if done.returncode:
            raise RuntimeError(f"podman {shlex.join(words)}: {done.stderr}")

    def play(self, play: Callable[[Any], Observation]) -> Observation:
        """Play a scene, and remove what it has made."""
        self._scenes += 1
        self.seen = {}
        box = Box(self, self.folder / f"s{self._scenes}")
        try:
            seen = play(box)
            seen["errors"] = "\n".join(box.errors)
            return seen
        finally:
            self.clear()
            shutil.rmtree(box.folder, ignore_errors=True)

    def clear(self) -> None:
        """No container, pod, volume, secret or network of a scene's is left."""
        for words in (
            "pod rm --all --force --time 0", "rm --all --force --time 0", "volume prune --force", "secret rm --all",
            "network prune --force",
        ):  # fmt: skip
            try:
                subprocess.run([*self.command, *words.split()], capture_output=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                continue

    def close(self) -> None:
        """Unmount what podman keeps mounted."""
        self.clear()
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split()[4] for line in file if str(self.folder) in line]
        for mount in reversed(mounts):
            subprocess.run(["umount", "-l", mount], capture_output=True)


class Box:
    """What a scene works with."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        self.errors: list[str] = []
        self.seen = stage.seen
        folder.mkdir()
        (folder / "data").mkdir()
        (folder / "data" / "file").write_text("content\n")
        (folder / "file").write_text("a file\n")
        (folder / "env").write_text("FROM_FILE=1\n#comment\nOTHER=a b\n")

    def line(self, one: Line) -> tuple[str, str, str]:
        """Run a line: its status, and what it wrote, normalised."""
        text = one.command.replace("{dir}", str(self.folder))
        podman = shlex.join(self.stage.command)
        if text.startswith("!"):
            command = ["sh", "-c", text[1:].replace("{podman}", podman)]
        else:
            command = [*self.stage.command, *shlex.split(text)]
        deadline = time.monotonic() + PATIENCE
        while True:
            status, out, err = self._run(command, one.stdin)
            wanted = re.search(one.out or "", out, re.MULTILINE)
            if not one.until or wanted or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if status != "0":
            self.errors.append(err.strip())
        if not one.order:
            out = "\n".join(sorted(out.splitlines()))
        return status, self.normal(out), self.normal(err)

    def normal(self, text: str) -> str:
        """Without what differs between any two containers."""
        text = text.replace(str(self.folder), "{dir}").replace(str(self.stage.folder), "{stage}").replace("\r", "")
        for pattern, word in REPLACED:
            text = re.sub(pattern, word, text)
        return text

    def _run(self, command: Sequence[str], text: str) -> tuple[str, str, str]:
        # Files, not pipes: what a container in the background keeps open must not be waited for
        with (
            open(self.folder / ".out", "w+b") as out,
            open(self.folder / ".err", "w+b") as err,
            open(self.folder / ".in", "w+b") as stdin,
        ):
            stdin.write(text.encode())
            stdin.seek(0)
            process = subprocess.Popen(
                command, stdin=stdin, stdout=out, stderr=err, start_new_session=True, cwd=self.folder
            )
            try:
                status = str(process.wait(LIMIT))
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = "timeout"
            out.seek(0)
            err.seek(0)
            return status, out.read().decode(errors="replace"), err.read().decode(errors="replace")
