"""A stage for scenes of the OCI suite: one runtime, bundles with busybox, and commands that have a time limit."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyvmm_kata.bundle.default_spec import default_spec
from tests.conformance.suite import Observation, Script
from tests.guest.kata_tools import make_rootfs

SCRIPT = Script()
scene = SCRIPT.scene
"""Where the modules of this suite put their scenes."""
LIMIT = 45.0
"""Seconds for a command of a runtime's."""
DROP = object()
"""As the value of a change: the field is removed."""
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID")
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


class Done(NamedTuple):
    """How a command ended; `status` is "timeout" when it was killed."""

    status: str
    out: str
    err: str


def base_spec(args: Sequence[str], root: str) -> dict[str, Any]:
    """The config.json that scenes change: what engines give to every container, and every reference takes."""
    sets = [f"CAP_{name}" for name in CAPABILITIES]
    return change(
        default_spec(list(args), terminal=False, root=root),
        {
            "ociVersion": "1.0.2",
            "process.env": [PATH, "TERM=dumb"],
            "process.capabilities": {kind: list(sets) for kind in ("bounding", "effective", "permitted")},
            "process.rlimits": DROP,
            "hostname": "conformance",
            "linux.maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        },
    )


def change(spec: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change fields, named as ``process.cwd``; ``mounts+`` adds to a list, and the value DROP removes."""
    for path, value in changes.items():
        *folders, last = path.split(".")
        place = spec
        for name in folders:
            place = place.setdefault(name, {})
        if value is DROP:
            place.pop(last, None)
        elif last.endswith("+"):
            place[last[:-1]] = [*place.get(last[:-1], ()), *value]
        else:
            place[last] = copy.deepcopy(value)
    return spec


def probe_script(probes: Mapping[str, str]) -> str:
    """A script of the shell's that prints what each of the probes prints, and its status."""
    parts = [
        f"echo; echo @{name}; ( {text}\n) 2>&1; s=$?; echo; echo @{name}?; echo $s" for name, text in probes.items()
    ]
    return "\n".join(parts)


def sections(text: str) -> Observation:
    """What such a script has printed, by the names of the probes; `NAME?` is a status."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("@"):
            name = line[1:]
        found.setdefault(name, []).append(line)
    return {name: "\n".join(lines[1:]).strip() for name, lines in found.items() if name}


class Stage:
    """One runtime, with a folder and a root file system of its own."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.runtime = name
        self._command = command
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state = folder / "state"
        self.rootfs = make_rootfs(folder / "rootfs")
        for applet in ("passwd", "group"):
            (self.rootfs / "etc" / applet).write_text(
                "root:x:0:\n" if applet == "group" else "root:x:0:0::/root:/bin/sh\n"
            )
        self._scenes = 0

    def play(self, play: Callable[[Any], Observation]) -> Observation:
        """Play a scene, and clear up after it."""
        self._scenes += 1
        box = Box(self, self.folder / f"s{self._scenes}", f"s{self._scenes}")
        try:
            seen = play(box)
            seen["errors"] = "\n".join(box.errors)
            return seen
        finally:
            box.close()

    def close(self) -> None:
        """Nothing is kept between scenes."""

    def command(self, *words: str) -> list[str]:
        """A command line of the runtime's, with its own root."""
        return [*self._command, "--root", str(self.state), *words]


class Box:
    """What a scene works with."""

    def __init__(self, stage: Stage, folder: Path, name: str) -> None:
        self.stage = stage
        self.folder = folder
        folder.mkdir()
        self.rootfs = stage.rootfs
        self.name = name
        self.errors: list[str] = []
        self._ids: dict[str, None] = {}
        self._bundles = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._mounts: list[Path] = []

    def id(self, name: str = "c") -> str:
        """A container's id, of this scene alone; what has it is deleted at the end."""
        text = f"{self.name}-{name}"
        self._ids[text] = None
        return text

    def bundle(self, program: str | Sequence[str], changes: Mapping[str, Any] | None = None) -> Path:
        """A bundle for a script of the shell's, or for a command line."""
        self._bundles += 1
        path = self.folder / f"bundle{self._bundles}"
        path.mkdir()
        args = ["sh", "-c", program] if isinstance(program, str) else program
        spec = change(base_spec(args, str(self.rootfs)), changes or {})
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def own_root(self) -> Path:
        """A root file system of this scene's own."""
        return make_rootfs(self.folder / f"root{self._bundles}")

    def call(self, *words: str, text: str = "", limit: float = LIMIT, **options: Any) -> Done:
        """A command of the runtime's, with pipes; what it writes to standard error is kept."""
        return self._done(self.stage.command(*words), text, limit, options)

    def host(self, *words: str) -> Done:
        """A command of the host's."""
        return self._done(words, "", LIMIT, {})

    def _done(self, command: Sequence[str], text: str, limit: float, options: Mapping[str, Any]) -> Done:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        ) as process:
            try:
                out, err = process.communicate(text.encode(), timeout=limit)
                status = str(process.returncode)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                out, err, status = error.output or b"", error.stderr or b"", "timeout"
        self.errors.append(err.decode(errors="replace").strip())
        return Done(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def run(
        self, program: str | Sequence[str], changes: Mapping[str, Any] | None = None, text: str = "", name: str = "c"
    ) -> Done:
        """`run` of a new bundle."""
        return self.call("run", "--bundle", str(self.bundle(program, changes)), self.id(name), text=text)

    def probe(
        self, probes: Mapping[str, str], changes: Mapping[str, Any] | None = None, name: str = "c"
    ) -> Observation:
        """`run` with a script of probes: what they printed, and the `status` of the whole."""
        done = self.run(probe_script(probes), changes, name=name)
        return {"status": done.status, "out": done.out, **sections(done.out)}

    def exec(self, probes: Mapping[str, str], *options: str, name: str = "c") -> Observation:
        """`exec` of a script of probes in a container that runs."""
        done = self.call("exec", *options, self.id(name), "sh", "-c", probe_script(probes))
        return {"exec.status": done.status, **sections(done.out)}

    def create(
        self, program: str | Sequence[str], changes: Mapping[str, Any] | None = None, name: str = "c", *words: str
    ) -> Done:
        """`create` of a new bundle; the container's output is a file, see output()."""
        return self.create_in(self.bundle(program, changes), name, *words)

    def create_in(self, bundle: Path, name: str = "c", *words: str, verb: str = "create") -> Done:
        """`create` of a bundle."""
        command = self.stage.command(verb, *words, "--bundle", str(bundle), self.id(name))
        with open(self.folder / f"{name}.out", "ab") as out, open(self.folder / f"{name}.err", "ab") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
            try:
                status = str(process.wait(LIMIT))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = "timeout"
        text = (self.folder / f"{name}.err").read_text(errors="replace")
        self.errors.append(text.strip())
        return Done(status, "", text)

    def start(self, program: str | Sequence[str], changes: Mapping[str, Any] | None = None, name: str = "c") -> Done:
        """`create` and `start`; the one that failed, or the last."""
        done = self.create(program, changes, name)
        return done if done.status != "0" else self.call("start", self.id(name))

    def output(self, name: str = "c") -> str:
        """What a created container has printed so far."""
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def output_with(self, pattern: str, name: str = "c") -> str:
        """The same once the pattern occurs in it, or what there is in the end."""
        self.until(lambda: re.search(pattern, self.output(name)) is not None)
        return self.output(name)

    def background(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """A command of the runtime's in the background; it is killed at the end of the scene."""
        process = subprocess.Popen(self.stage.command(*words), start_new_session=True, **options)
        self._processes.append(process)
        return process

    def state(self, name: str = "c") -> dict[str, Any]:
        """What `state` prints, empty when it fails."""
        done = self.call("state", self.id(name))
        try:
            found: dict[str, Any] = json.loads(done.out) if done.status == "0" else {}
        except ValueError:
            return {}
        return found

    def status(self, name: str = "c") -> str:
        """The container's status, empty when there is none."""
        return str(self.state(name).get("status", ""))

    def stopped(self, name: str = "c") -> str:
        """The container's status once that is `stopped`, or what it is in the end."""
        self.until(lambda: self.status(name) in ("stopped", ""))
        return self.status(name)

    def until(self, condition: Callable[[], bool], limit: float = 20.0) -> bool:
        """Wait for a condition; whether it came."""
        deadline = time.monotonic() + limit
        while not (true := condition()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return true

    def mount(self, *words: str) -> None:
        """mount(8) of the host's; the last word is the place, unmounted at the end."""
        place = Path(words[-1])
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *words], check=True, capture_output=True)
        self._mounts.append(place)

    def close(self) -> None:
        """End and remove whatever the scene has made."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for name in self._ids:
            try:
                subprocess.run(self.stage.command("delete", "--force", name), capture_output=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                pass
        for place in reversed(self._mounts):
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
