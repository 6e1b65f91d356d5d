"""What the package archive offers today: versions, asked for once for each package index, and backports.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import recipe
from recipe import Progress, RecipeError

LISTS = Path("/var/lib/apt/lists")
# What else decides which version apt prefers.
SETTINGS = tuple(
    Path("/etc/apt", name) for name in ("sources.list", "sources.list.d", "preferences", "preferences.d", "apt.conf.d")
)
# How long the index of the backports is used without asking the mirror, and how long one that fails is left alone.
FRESH_SECONDS = 86400.0
OLD_DAYS = 7.0
# The version of Linux that the options are written for; where apt does not have it, the one the distribution prefers.
PREFERRED = "6.12"


def index_state(lists: Path = LISTS) -> str:
    """A name for the package index that apt has now; `apt-get update` changes it when there is anything new."""
    state = hashlib.sha256()
    for place in (lists, *SETTINGS):
        try:
            files = sorted(os.scandir(place), key=lambda entry: entry.name) if place.is_dir() else [place]
            for file in files:
                status = file.stat()
                if os.path.isfile(file) and file.name != "lock":
                    state.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:
            continue
    return state.hexdigest()[:20]


def index_age(lists: Path = LISTS) -> float | None:
    """The days since apt last changed its package index; None when it has none."""
    try:
        files = [entry.stat() for entry in os.scandir(lists) if entry.is_file() and entry.name != "lock"]
    except OSError:
        return None
    return (time.time() - max(status.st_ctime for status in files)) / 86400 if files else None


def remembered(pin: Path, ask: Callable[[], str], progress: Progress, lists: Path = LISTS) -> str:
    """What `ask` answers for the package index of now; asked once for each index, since apt takes half a second.

    When apt cannot answer, the last answer is used, and said. Raises RecipeError when there is none.
    """
    index, last = _read_pin(pin)
    if last is not None and index == index_state(lists):
        return last
    try:
        answer = ask()
    except RecipeError as error:
        if last is None:
            raise
        progress.say(f"{error.message}; using what an earlier package index had: {last}")
        return last
    pin.parent.mkdir(parents=True, exist_ok=True)
    new = pin.with_name(f".{pin.name}.{os.getpid()}")
    # Asking may have renewed it
    new.write_text(json.dumps({"index": index_state(lists), "answer": answer}))
    os.replace(new, pin)
    return answer


def last_answer(pin: Path) -> str | None:
    """What was last answered, None when nothing was asked."""
    return _read_pin(pin)[1]


def _read_pin(pin: Path) -> tuple[str, str | None]:
    try:
        content = json.loads(pin.read_text())
        return str(content["index"]), str(content["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", None


def versions(pin: Path, packages: Iterable[str], progress: Progress) -> dict[str, str]:
    """The version that apt would install of each package. Raises RecipeError when it does not know one."""
    names = sorted(set(packages))
    name = recipe.digest({"packages": " ".join(names)})
    text = remembered(
        pin.with_name(f"{pin.name}-{name}"),
        lambda: " ".join(f"{package}={recipe.candidate_version(package)}" for package in names),
        progress,
    )
    return dict(word.split("=", 1) for word in text.split())


def kernel_source(series: str | None, progress: Progress) -> str:
    """The package with the source of a series of Linux, or of ours, and its newest version. Raises RecipeError."""
    pin = recipe.cache_root() / "kernel" / f"package-{series or 'default'}"
    return remembered(pin, lambda: " ".join(_choose_package(series)), progress)


def _choose_package(version: str | None) -> tuple[str, str]:
    if version is not None:
        package = f"linux-source-{version}"
        return package, recipe.candidate_version(package)
    try:
        return f"linux-source-{PREFERRED}", recipe.candidate_version(f"linux-source-{PREFERRED}")
    except RecipeError:
        depends = recipe.run(["apt-cache", "depends", "linux-source"])
        found = re.search(r"Depends: (linux-source-\S+)", depends)
        if not found:
            raise
        return found[1], recipe.candidate_version(found[1])


def version_key(version: str) -> list[int]:
    """The numbers of a version, for sorting."""
    return [int(number) for number in re.findall(r"\d+", version)]


class Backports:
    """The backports of Debian's release, by a package index of their own in the cache; nothing is installed."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.lists = folder / "lists"
        self.progress = progress
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self.lists,
            "Dir::Cache": folder,
            "APT::Sandbox::User": "root",  # apt's own unprivileged user cannot write to our cache
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def refresh(self) -> None:
        """Renew the index once a day. Raises RecipeError when there is none and none can be had."""
        mark = self.folder / "asked"
        with recipe.lock(self.folder, self.progress):
            failed = mark.read_text() if mark.exists() else ""
            if mark.exists() and time.time() - mark.stat().st_mtime < FRESH_SECONDS:
                if failed and not self._has_index():
                    raise RecipeError(failed, f"remove {mark} to try again today")
                return
            try:
                (self.folder / "sources.list").write_text(self._source())
                (self.lists / "partial").mkdir(parents=True, exist_ok=True)
                recipe.run(["apt-get", "-q", *self.options, "-o", "APT::Update::Error-Mode=any", "update"])
            except RecipeError as error:
                mark.write_text(error.message)
                if not self._has_index():
                    raise
                self.progress.say(f"{error.message}; using the backports' index of an earlier day")
            else:
                mark.write_text("")

    def _has_index(self) -> bool:
        return any(self.lists.glob("*_Packages*"))

    def _source(self) -> str:
        try:
            release = Path("/etc/os-release").read_text()
        except OSError:
            release = ""
        found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
        if found is None or not re.search(r"^ID=debian$", release, re.MULTILINE):
            raise RecipeError("only Debian's backports are known here")
        codename = found[1]
        # From the mirror that the machine has its packages from, with the same key.
        listing = recipe.run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(SIGNED_BY)"])
        lines = [line.split() for line in listing.splitlines() if line.split()[:1] == [codename]]
        if not lines:
            raise RecipeError(f"apt has no source for {codename}")
        key = f"[signed-by={lines[0][2]}]" if len(lines[0]) > 2 and lines[0][2].startswith("/") else ""
        return f"deb {key} {lines[0][1]} {codename}-backports main\n"

    def newest(self, pattern: str) -> str:
        """The name of the package with the highest number of those that match. Raises RecipeError without one."""
        names = recipe.run(["apt-cache", *self.options, "pkgnames", re.split(r"[\\(\[]", pattern)[0]]).split()
        found = sorted((name for name in names if re.fullmatch(pattern, name)), key=version_key)
        if not found:
            raise RecipeError(f"the backports have no package {pattern}")
        return found[-1]

    def candidate_version(self, package: str) -> str:
        """The version that they have of `package`. Raises RecipeError."""
        return recipe.candidate_version(package, self.options)

    def remembered(self, pin: Path, ask: Callable[[], str]) -> str:
        """As :func:`remembered`, for this index, which is renewed first when it is due. Raises RecipeError."""

        try:
            self.refresh()
        except RecipeError as error:
            trouble = error

            def ask() -> str:
                raise trouble

        return remembered(pin, ask, self.progress, self.lists)
