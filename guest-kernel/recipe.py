"""What the two recipes of this folder share: errors, progress, a cache by content, and Debian packages.

Standard library only. A recipe is a script that prints nothing but the path of what it made on stdout; everything else
(progress, errors) goes to stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Nothing of the build's time or place may end up in what is built.
EPOCH = 0
UNUSED_SECONDS = 30 * 86400.0


class RecipeError(Exception):
    """A recipe cannot go on. `message` says which file, package or option; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Progress:
    """Lines on stderr, each with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)


def run_recipe(main: Callable[[], Path]) -> NoReturn:
    """Run a recipe as a program: its path on stdout and status 0, an error on stderr and status 1.

    SIGTERM and SIGHUP end it the way Ctrl-C does, by an exception, so that what it started and wrote is cleaned up;
    the status is then 128 + the signal's number.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        print(main())
    except RecipeError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; nothing was kept", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def require_tools(tools: Mapping[str, str], purpose: str) -> None:
    """Check that each program (a key of `tools`) is on PATH; the value is the Debian package that has it.

    Raises RecipeError that names every missing one.
    """
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if shutil.which(tool, path=search) is None]
    if missing:
        packages = sorted({tools[tool] for tool in missing})
        raise RecipeError(
            f"{purpose} needs {', '.join(missing)}, not found on PATH",
            f"apt-get install {' '.join(packages)}",
        )


def cache_root() -> Path:
    """The directory of everything that can be made again: ${XDG_CACHE_HOME:-~/.cache}/pyvmm."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "pyvmm"


def digest(parts: Mapping[str, str]) -> str:
    """A name for what is made from `parts`: 20 hexadecimal digits that change when any of them does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content. Raises RecipeError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from None


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A temporary directory inside `parent` (created when needed) that is gone afterwards, whatever happened.

    One that a killed recipe left behind goes too: its name holds the process id of its owner.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(".work-*"):
        owner = re.match(r"\.work-(\d+)-", stale.name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            shutil.rmtree(stale, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def lock(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a part of the cache, so that two who want the same make it once; it dies with its owner."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another run that works in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(entry: Path, name: str) -> Path | None:
    """`entry`/`name` when the cache has it as it was published, else None.

    An image that a guest has written to since (its size or time changed) does not count.
    """
    path = entry / name
    try:
        seal = json.loads((entry / "seal.json").read_text())
        status = path.stat()
    except (OSError, ValueError):
        return None
    if seal != {"size": status.st_size, "mtime_ns": status.st_mtime_ns}:
        return None
    mark_used(entry)
    return path


def mark_used(entry: Path) -> None:
    """Note in its time that something of the cache is used, for :func:`sweep`."""
    with contextlib.suppress(OSError):  # the cache may be somebody else's
        os.utime(entry)


def sweep(entries: Iterable[Path]) -> None:
    """Remove of `entries` what was not used for a month: packages of other versions replace what they were made of."""
    for entry in entries:
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime < UNUSED_SECONDS:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()


def publish(made: Path, entry: Path, name: str) -> Path:
    """Turn the directory `made` (on the same file system) into the cache entry `entry`; `made`/`name` is its result.

    The rename is the last step, so there is no half entry. The caller holds the lock. Returns the path of the result.
    """
    status = (made / name).stat()
    (made / "seal.json").write_text(json.dumps({"size": status.st_size, "mtime_ns": status.st_mtime_ns}))
    os.chmod(made, 0o755)
    entry.parent.mkdir(parents=True, exist_ok=True)
    if entry.exists():
        shutil.rmtree(entry)
    os.rename(made, entry)
    sweep(seal.parent for seal in entry.parent.glob("*/seal.json") if seal.parent != entry)
    return entry / name


def make_as_root(
    entry: Path,
    name: str,
    tools: Mapping[str, str],
    purpose: str,
    progress: Progress,
    build: Callable[[Path, Path], None],
) -> Path:
    """The path of `entry`/`name`, made when the cache does not have it: for files with owners, so by root only.

    `build` gets a directory to work in and one, in it, for what is to be published. Raises RecipeError.
    """
    if hit := cached(entry, name):
        return hit
    require_tools(tools, purpose)
    if os.geteuid() != 0:
        raise RecipeError(f"{purpose} needs root, for the owners of its files", "sudo, or unshare -r")
    with lock(entry.parent, progress), workspace(entry.parent) as work:
        if hit := cached(entry, name):
            return hit
        made = work / "made"
        made.mkdir()
        build(work, made)
        return publish(made, entry, name)


def deliver(result: Path, output: Path | None) -> Path:
    """Copy `result` to `output` when one was asked for (sparse, atomically). Returns the path to print."""
    if output is None:
        return result
    require_tools({"cp": "coreutils"}, "--output")
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        run(["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", str(result), str(temporary)])
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return output.absolute()


def run(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its stdout. Raises RecipeError with its last words when it fails."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RecipeError(f"{command[0]} is not installed") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-4:]
        raise RecipeError(f"`{' '.join(command)}` failed (status {done.returncode}): " + " / ".join(words))
    return done.stdout


def candidate_version(package: str, options: Sequence[str] = ()) -> str:
    """The version that apt would install of `package`. Raises RecipeError when apt does not know the package.

    :param options: apt's, of another package index than the machine's
    """
    require_tools({"apt-cache": "apt"}, f"getting {package}")
    found = re.search(r"^\s*Candidate: (\S+)", run(["apt-cache", *options, "policy", package]), re.MULTILINE)
    if not found or found[1] == "(none)":
        raise RecipeError(
            f"apt does not know a package {package}",
            "run apt-get update, or give another source (see --help)",
        )
    return found[1]


def fetch_package(package: str, version: str, into: Path, progress: Progress, options: Sequence[str] = ()) -> None:
    """Download a Debian package and unpack it into the directory `into`; nothing is installed. Raises RecipeError.

    :param options: apt's, of another package index than the machine's
    """
    require_tools({"apt-get": "apt", "dpkg-deb": "dpkg"}, f"getting {package}")
    with workspace(into.parent) as download:
        progress.say(f"downloading {package} {version}")
        # Without this apt warns that its own user cannot write here.
        command = ["apt-get", "-o", "APT::Sandbox::User=root", *options, "download", f"{package}={version}"]
        try:
            run(command, cwd=download)
        except RecipeError as error:
            hint = "run apt-get update, if the package index is so old that the archive has other versions now"
            raise RecipeError(error.message, hint) from None
        archives = list(download.glob("*.deb"))
        if len(archives) != 1:
            raise RecipeError(f"apt-get download {package}={version} left {len(archives)} packages, not one")
        progress.say(f"unpacking {archives[0].name} ({archives[0].stat().st_size >> 20} MiB)")
        run(["dpkg-deb", "-x", str(archives[0]), str(into)])
