"""Sources of packages, from the archive that apt uses; they stay in a cache."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

FRESH_SECONDS = 86400.0
"""How old a version in the cache may be before the next build looks for a newer one."""
HINT = "check the network and apt's sources; once fetched, the source stays in the cache"


class SourceError(Exception):
    """The source is not available.

    :ivar hint: what to do
    """

    def __init__(self, message: str, hint: str = HINT) -> None:
        super().__init__(message)
        self.hint = hint


def cache(package: str) -> Path:
    """Where versions of a source are, each in a folder: ``${XDG_CACHE_HOME:-~/.cache}/pyvmm/PACKAGE``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "pyvmm" / package


def _run(package: str, command: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise SourceError(
            f"{package}'s source needs {command[0]}, which is not installed", "install apt and patch"
        ) from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise SourceError(f"{command[0]} failed for {package}'s source: {'; '.join(lines[-2:]) or done.returncode}")
    return done.stdout


def _suites(package: str, folder: Path) -> str:
    """Lines of a sources.list: the release and its updates, from the mirrors that apt uses."""
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    found = re.search(r'^VERSION_CODENAME="?(\w+)"?$', release, re.MULTILINE)
    if found is None:
        raise SourceError(f"{package}'s source comes from Debian's or Ubuntu's archive, and this system is neither")
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI) $(SIGNED_BY)"
    lines = _run(package, ["apt-get", "indextargets", "--format", form], folder)
    rows = {tuple(line.split()) for line in lines.splitlines()}
    wanted = {found[1], f"{found[1]}-updates", f"{found[1]}-security"}
    chosen = sorted(row for row in rows if row[0] in wanted and len(row) > 2 and row[1] in ("main", "universe"))
    if not chosen:
        raise SourceError(f"apt has no sources for {found[1]}")
    keys = {row: f"[signed-by={row[3]}] " if len(row) > 3 and row[3].startswith("/") else "" for row in chosen}
    return "".join(f"deb-src {keys[row]}{row[2]} {row[0]} {row[1]}\n" for row in chosen)


def _fetch(package: str, work: Path, known: Path) -> Path:
    """Look up the newest version in the archive, and fetch it unless *known* has it; returns its folder."""
    (work / "sources.list").write_text(_suites(package, work))
    (work / "lists" / "partial").mkdir(parents=True)
    settings = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",  # apt's own unprivileged user cannot write to the cache
        "APT::Update::Error-Mode": "any",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run(package, ["apt-get", "-q", *options, "update"], work)
    shown = _run(package, ["apt-get", "-q", *options, "--print-uris", "--only-source", "source", package], work)
    version = re.search(rf"/{package}_([^/']+)\.dsc' ", shown)
    if version is None:
        raise SourceError(f"the archive has no source of {package}")
    name = urllib.parse.unquote(version[1])
    if (known / name).is_dir():
        return known / name
    print(f"fetching the source of {package} {name}", file=sys.stderr)
    # It checks the sums
    _run(package, ["apt-get", "-q", *options, "--download-only", "--only-source", "source", package], work)
    _unpack(package, work, work / "made")
    os.rename(work / "made", known / name)
    return known / name


def _unpack(package: str, work: Path, target: Path) -> None:
    """The source with the distribution's patches."""
    tree = work / "tree"
    for pattern, place in ((f"{package}_*.orig.tar.*", tree), (f"{package}_*.debian.tar.*", tree / "top")):
        (archive,) = work.glob(pattern)
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        if place is tree:
            (top,) = tree.iterdir()
            os.rename(top, tree / "top")
    patches = tree / "top" / "debian" / "patches"
    for line in (patches / "series").read_text().splitlines() if (patches / "series").exists() else ():
        if line.strip() and not line.startswith("#"):
            command = ["patch", "-p1", "--force", "--quiet", "--no-backup-if-mismatch"]
            _run(package, [*command, "-i", str(patches / line.split()[0])], tree / "top")
    os.rename(tree / "top", target)


def _cached(folder: Path) -> tuple[Path | None, bool]:
    """The folder of the cache's current version, if it has one; and whether it is fresh enough for a build."""
    mark = folder / "current"
    try:
        current, age = folder / mark.read_text(), time.time() - mark.stat().st_mtime
    except OSError:
        return None, False
    return (current, age < FRESH_SECONDS) if current.is_dir() else (None, False)


def fetched(package: str) -> Path:
    """The folder of a package's source, which is in the cache or fetched; its version is the folder's name.

    :raises SourceError: the cache has none, and the archive cannot be reached
    """
    folder = cache(package)
    current, fresh = _cached(folder)
    if current and fresh:
        return current
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock, tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current, fresh = _cached(folder)
        if current and fresh:
            return current  # another process was faster
        try:
            current = _fetch(package, Path(work), folder)
        except SourceError:
            if current is None:
                raise
            print(f"the archive cannot be reached; using {package} {current.name}", file=sys.stderr)
        (folder / "current").write_text(current.name)
    return current
