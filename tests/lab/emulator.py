"""The QEMU that runs the lab: the installed one, or the newer one of the distribution's backports.

Before 10.2, QEMU changes a CPU's word of pending interrupts at each VMRUN and #VMEXIT without an atomic operation. An
interrupt that another thread raises in that moment is lost. The package is unpacked into the cache, as the lab's
kernel is, and not installed.

Whichever it is, what runs is a copy of it: see mend.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tools.distribution import DistributionError, cache_dir, locked, run_tool
from tools.step import say

from . import mend
from .mend import MendError, mended

PROGRAM = "qemu-system-x86_64"
GOOD = (10, 2)
"""The first version without that race."""
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")
RETRY = 86400.0
"""Seconds until the backports are asked again, when they could not be had."""


def version(program: str | Path) -> tuple[int, int]:
    """The version of a QEMU; (0, 0) when it does not run."""
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0, 0
    found = re.match(r"QEMU emulator version (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_emulator() -> list[str]:
    """What the command line of the lab's QEMU begins with. Raises FileNotFoundError when none is installed."""
    installed = shutil.which(PROGRAM)
    if installed is None:
        raise FileNotFoundError(2, "not installed", PROGRAM)
    program, share = Path(installed).resolve(), Path("/usr/share")
    cache = cache_dir()
    with locked(cache):
        if version(program) < GOOD:
            root = cache / "qemu-backports"
            if not root.exists():
                _try_backports(root)
            if root.exists():
                program, share = root / "usr" / "bin" / PROGRAM, root / "usr" / "share"
        program = _mended_copy(program, cache)
    return [str(program), "-L", str(share / "qemu"), "-L", str(share / "seabios")]


def _mended_copy(program: Path, cache: Path) -> Path:
    """The path of the copy in the cache; the program's own, with a word about it, when it cannot be mended."""
    content = program.read_bytes()
    recipe = Path(mend.__file__).read_bytes()
    copy = cache / f"qemu-mended-{hashlib.sha256(content + recipe).hexdigest()[:16]}"
    if not copy.exists():
        try:
            content = mended(content)
        except MendError as error:
            say(f"guests may stand still in the lab: {program} cannot be mended: {error}")
            return program
        new = copy.with_suffix(".new")
        new.write_bytes(content)
        new.chmod(0o755)
        new.rename(copy)
    return copy


def _try_backports(root: Path) -> None:
    """Put a newer QEMU at `root`. If there is none, say so, and ask again only after a day."""
    mark = root.with_name("qemu-backports-failed")
    if mark.exists() and time.time() - mark.stat().st_mtime < RETRY:
        return
    try:
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as scratch:
            _unpack_backports(Path(scratch)).rename(root)
    except DistributionError as error:
        mark.touch()
        say(f"no newer QEMU for the lab, which stops at times on this one: {error}")


def _unpack_backports(scratch: Path) -> Path:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if found is None or not re.search(r"^ID=debian$", release, re.MULTILINE):
        raise DistributionError("only Debian's backports are known here")
    codename = found[1]
    # From the mirror that the machine has its packages from, with the same key.
    listing = run_tool(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(SIGNED_BY)"]).splitlines()
    lines = [line.split() for line in listing if line.split()[:1] == [codename]]
    if not lines:
        raise DistributionError(f"apt has no source for {codename}")
    key = f"[signed-by={lines[0][2]}]" if len(lines[0]) > 2 and lines[0][2].startswith("/") else ""
    (scratch / "sources.list").write_text(f"deb {key} {lines[0][1]} {codename}-backports main\n")
    (scratch / "lists" / "partial").mkdir(parents=True)
    say(f"downloading {', '.join(PACKAGES)} from {codename}-backports (unpacked into {scratch.parent}, not installed)")
    options = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "APT::Sandbox::User": "root",  # apt's own unprivileged user cannot write to our cache
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run_tool([*apt, "update"], scratch)
    run_tool([*apt, "download", *PACKAGES], scratch)
    root = scratch / "root"
    for package in scratch.glob("*.deb"):
        run_tool(["dpkg-deb", "-x", str(package), str(root)])
    program = root / "usr" / "bin" / PROGRAM
    if version(program) < GOOD:
        raise DistributionError(f"{codename}-backports has no QEMU from {GOOD[0]}.{GOOD[1]} that runs here")
    return root
