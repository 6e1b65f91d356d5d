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

from tools.distribution import (
    DistributionError,
    Log,
    RecipeError,
    archive,
    cache_dir,
    locked,
    mark_used,
    run_tool,
    sweep,
)
from tools.step import say

from . import mend
from .mend import MendError, mended

PROGRAM = "qemu-system-x86_64"
GOOD = (10, 2)
"""The first version without that race."""
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")
RETRY = 86400.0
"""Seconds until a QEMU that could not be had is tried again."""


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
        if version(program) < GOOD and (root := _find_backports(cache)):
            program, share = root / "usr" / "bin" / PROGRAM, root / "usr" / "share"
        program = _mended_copy(program, cache)
    return [str(program), "-L", str(share / "qemu"), "-L", str(share / "seabios")]


def _mended_copy(program: Path, cache: Path) -> Path:
    """The path of the copy in the cache; the program's own, with a word about it, when it cannot be mended."""
    content = program.read_bytes()
    recipe = Path(mend.__file__).read_bytes()
    copy = cache / f"qemu-mended-{hashlib.sha256(content + recipe).hexdigest()[:16]}"
    if copy.exists():
        mark_used(copy)
    else:
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


def _find_backports(cache: Path) -> Path | None:
    """The directory of the backports' newest QEMU, unpacked; of one that was newest earlier when that cannot be had."""
    backports = archive.Backports(cache.parent / "backports", Log())
    root = None
    try:
        newest = backports.remembered(cache / "qemu-newest", lambda: backports.candidate_version(PACKAGES[0]))
        root = cache / f"qemu-backports-{newest.replace(':', '.')}"
        mark = cache / f"{root.name}-failed"
        if not root.exists() and not (mark.exists() and time.time() - mark.stat().st_mtime < RETRY):
            mark.touch()
            _unpack_backports(backports, root)
            mark.unlink()
    except (RecipeError, DistributionError) as error:
        say(f"the backports' QEMU cannot be had: {error}")
    if root is None or not root.exists():
        older = sorted(cache.glob("qemu-backports-*/"), key=lambda path: archive.version_key(path.name))
        root = older[-1] if older else None
        say(f"the lab runs on {root.name if root else 'the installed QEMU, on which it stops at times'}")
    if root is not None:
        mark_used(root)
        sweep(path for path in cache.glob("qemu-*") if path != root)
    return root


def _unpack_backports(backports: archive.Backports, root: Path) -> None:
    say(f"downloading {', '.join(PACKAGES)} of the backports (unpacked into {root.parent}, not installed)")
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as scratch:
        run_tool(["apt-get", "-q", *backports.options, "download", *PACKAGES], Path(scratch))
        made = Path(scratch) / "root"
        for package in Path(scratch).glob("*.deb"):
            run_tool(["dpkg-deb", "-x", str(package), str(made)])
        if version(made / "usr" / "bin" / PROGRAM) < GOOD:
            raise DistributionError(f"no QEMU from {GOOD[0]}.{GOOD[1]} that runs here")
        made.rename(root)
