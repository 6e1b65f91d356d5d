"""Containers on the Sentry without KVM, on this machine itself, beside gVisor: their start, and files in a volume and
in the root.

Both run the same bundle in turns. gVisor is Debian's `runsc`; each row is compared with the better of its platforms
systrap and ptrace. In the root, the container on the Sentry is one of a stored image, which keeps its changes in its
memory; runsc keeps those of any root in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.child import ChildError
from tests.bench.fs import FILES_PER_FOLDER, make_tree
from tests.bench.row import Row, absolute, compare, median
from tests.installed import wait_for_image
from tests.sentry import small_root
from tools.where import ROOT

FILES = 5000
TOOLS = ("tar", "find", "grep", "git", "rm", "mkdir")
PROGRAM = Path(sys.executable).parent / "pyvmm-oci"
START_MOST, FILES_MOST = 0.6, 0.5
TIMEOUT = 300.0
MEMORY = "/dev/shm"
"""Where the volumes are: the host's disk, which others use, is not measured."""
JOBS = {
    "untar": "tar xf /tree.tar",
    "find": "find . -size +100000k",
    "grep": "grep -rF not-in-there . || true",
    "git add": "git init -q --template= . && git add .",
    "git status": "git status --short >/dev/null",
    "rm": "rm -rf folder* .git",
}
"""What the container does with files, in this order, without dropping its caches."""
PLACES = {"volume": "/volume/work", "root": "/work"}


def script(place: str) -> str:
    """For bash: the microseconds of each job in a directory, by its name."""
    lines = ["set -e", "export HOME=/tmp", f"mkdir -p {place}", f"cd {place}", "exec 2>&1"]
    for name, command in JOBS.items():
        lines += ["t=${EPOCHREALTIME/./}", command, f'echo "{name}:$((${{EPOCHREALTIME/./}} - t))"']
    return "\n".join(lines)


def make_bundle(folder: Path) -> Path:
    """A bundle whose root has the tools and the archive."""
    bundle = folder / "sentry-bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    root = bundle / "rootfs"
    root.mkdir(parents=True)
    small_root.start(root)
    for name in TOOLS:
        small_root.copy(root, f"/usr/bin/{name}")
    small_root.add_libraries(root, (root / "usr/bin").iterdir())
    make_tree(str(root / "tree.tar"), FILES // FILES_PER_FOLDER)
    (root / "volume").mkdir()
    subprocess.run([PROGRAM, "spec", "--bundle", str(bundle)], check=True)
    return bundle


def image_bundle(folder: Path, bundle: Path) -> Path:
    """A bundle whose root is a stored image of that of another one."""
    from pyvmm_kata.image_store.store import ImageStore

    spec = json.loads((bundle / "config.json").read_text())
    spec["root"]["path"] = ImageStore(str(folder / "store")).add(str(bundle / "rootfs")).path
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


def configure(bundle: Path, command: list[str], volume: Path | None = None) -> None:
    """Its config.json: the command and the volume."""
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"] |= {"args": command, "terminal": False, "env": ["PATH=/usr/bin"]}
    spec["root"]["readonly"] = False
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/volume"]
    if volume is not None:
        options = ["rbind", "rw"]
        mount = {"destination": "/volume", "type": "bind", "source": str(volume), "options": options}
        spec["mounts"].append(mount)
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    path.write_text(json.dumps(spec))


def systems(folder: Path) -> dict[str, list[str]]:
    """The command line of each runtime, without its command."""
    state = folder / "sentry-state"
    state.mkdir(parents=True, exist_ok=True)
    found = {"sentry": [str(PROGRAM), "--root", str(state / "sentry"), "--isolation", "sentry", "--platform", "trap"]}
    if shutil.which("runsc"):
        for platform in ("systrap", "ptrace"):
            words = ["runsc", "--root", str(state / platform), "--ignore-cgroups", "--network=none"]
            found[f"runsc-{platform}"] = [*words, f"--platform={platform}"]
    return found


def call(words: list[str]) -> str:
    """Standard output of a command."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise ChildError(f"{' '.join(words)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def started(head: list[str], bundle: Path, *, warm: bool) -> float:
    """Milliseconds of a container with `true`; `warm`: after the image for the next start was made."""
    if warm:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        wait_for_image(Path(cache) / "pyvmm")
    begin = time.monotonic()
    call([*head, "run", "--bundle", str(bundle), "bench"])
    return (time.monotonic() - begin) * 1e3


@contextlib.contextmanager
def running(head: list[str], bundle: Path, name: str) -> Iterator[None]:
    """A container that waits for programs; runsc keeps a file by its name beside those of others."""
    with open(bundle / "log", "wb") as log:  # it outlives the command
        command = [*head, "create", "--bundle", str(bundle), name]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=TIMEOUT)
    try:
        call([*head, "start", name])
        yield
    finally:
        subprocess.run([*head, "delete", "--force", name], capture_output=True, timeout=TIMEOUT)


def files(head: list[str], container: str, place: str) -> dict[str, float]:
    """Milliseconds of each job in a directory of a running container."""
    lines = call([*head, "exec", container, "bash", "-c", script(place)]).splitlines()
    return {name: float(value) / 1e3 for name, value in (line.split(":") for line in lines)}


def measure(folder: Path, repeat: int) -> dict[str, Any]:
    """Each system `repeat` times, turn by turn; the first turn is not counted."""
    sys.path.append(str(ROOT / "examples" / "sentry"))
    shutil.rmtree(folder / "sentry-state", ignore_errors=True)
    bundle, found = make_bundle(folder), systems(folder)
    figures: dict[str, Any] = {name: [] for name in found}
    configure(bundle, ["true"])
    for turn in range(2 * repeat + 1):
        for name, head in found.items():
            took = {"start": started(head, bundle, warm=True), "cold": 0.0}
            took["cold"] = started(head, bundle, warm=False) if name == "sentry" else took["start"]
            figures[name] += [took] if turn else []
    return {"start": figures} | {place: measure_files(folder, bundle, place, repeat) for place in PLACES}


def measure_files(folder: Path, bundle: Path, place: str, repeat: int) -> dict[str, Any]:
    """The jobs in a volume, or in the root, by each system."""
    found = systems(folder)
    jobs: dict[str, Any] = {name: [] for name in found}
    with contextlib.ExitStack() as stack:
        own = image_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder))), bundle)
        for name, head in found.items():
            volume = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
            used = own if (name, place) == ("sentry", "root") else bundle
            configure(used, ["sleep", "1000000"], Path(volume))
            stack.enter_context(running(head, used, name))
        for turn in range(repeat + 1):
            for name, head in found.items():
                took = files(head, name, PLACES[place])
                jobs[name] += [took] if turn else []
    text = ", ".join(f"{name} {median(runs, 'untar'):.0f}" for name, runs in jobs.items())
    os.write(2, f"    {place}: untar, ms: {text}; load {os.getloadavg()[0]:.1f}\n".encode())
    return jobs


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    return [
        *_rows(figures["start"], {"start": "run of true", "cold": "run of true without a process image"}, START_MOST),
        *(
            row
            for place in PLACES
            for row in _rows(figures[place], {name: f"{place}: {name}" for name in JOBS}, FILES_MOST)
        ),
    ]


def _rows(figures: dict[str, Any], names: dict[str, str], must: float) -> list[Row]:
    found, peers = [], [runs for system, runs in figures.items() if system != "sentry"]
    for name, text in names.items():
        title, ours = f"Sentry on trap, container: {text}", median(figures["sentry"], name)
        if not peers:
            found.append(absolute(title, ours, "ms"))
            continue
        best = min(median(peer, name) for peer in peers)
        found.append(compare(title, ours, best, "ms", peer_name="runsc", must=None if name == "cold" else must))
    return found
