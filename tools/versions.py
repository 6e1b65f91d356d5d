"""What the tests run with: a line for each program and kernel, with its version. usage: python -m tools.versions"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools import distribution, guest
from tools.distribution import RecipeError, archive
from tools.step import say

PROGRAMS = ("containerd", "podman", "crun", "runc", "passt")
SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
# A symbol that guest-kernel's patch virtiofs adds, and a string that vmgenid adds.
SYMBOL = re.compile(r" fuse_file_tell$", re.MULTILINE)
EVENT = b"NEW_VMGENID=1"


def program_version(program: str) -> str:
    """The first word with a dot and a digit that a program prints for --version; why there is none."""
    found = shutil.which(program, path=SEARCH)
    if found is None:
        return "not installed"
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    words = (done.stdout or done.stderr).split() or package_version(found).split()
    return next((word.strip(",()") for word in words if re.search(r"\d\S*\.\d", word)), "unknown")


def package_version(program: str) -> str:
    """The version of the package that has a program, for one that prints none; "" where there is no dpkg."""
    try:
        package = subprocess.run(["dpkg-query", "-S", program], capture_output=True, text=True).stdout.partition(":")[0]
        return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True).stdout
    except OSError:
        return ""


def is_patched(kernel: str | Path) -> bool:
    """Whether a guest kernel has guest-kernel's patch virtiofs, by the symbols that lie beside it."""
    try:
        return bool(SYMBOL.search(Path(kernel).with_name("System.map").read_text()))
    except OSError:
        return False


def has_event(kernel: str | Path) -> bool:
    """Whether a guest kernel notifies the programs of a clone; False for one that cannot be read, or is compressed."""
    try:
        return EVENT in Path(kernel).read_bytes()
    except OSError:
        return False


def patches(kernel: str | Path) -> str:
    """In words: which of guest-kernel's patches a kernel has."""
    found = [name for name, there in (("virtiofs", is_patched(kernel)), ("vmgenid", has_event(kernel))) if there]
    return f"with patches: {', '.join(found)}" if found else "without patches"


def kernel_version(kernel: str | Path) -> str:
    """The version that a kernel's banner names; "unknown" for what cannot be read, or is compressed."""
    try:
        found = re.search(rb"Linux version ([\w.+~-]+)", Path(kernel).read_bytes())
    except OSError:
        found = None
    return found[1].decode() if found else "unknown"


def newest_source() -> str:
    """The version of the kernel source that the package index has, less Debian's revision. Raises RecipeError."""
    return archive.kernel_source(None, distribution.Log()).split()[1].partition("-")[0]


def guest_kernel(path: str | None) -> str:
    """What is to be said of the guest kernel, None for one that is still to be built."""
    try:
        newest = newest_source()
    except RecipeError as error:
        newest, trouble = "", error.message
    else:
        age = archive.index_age()
        trouble = (
            "" if age is None or age < archive.OLD_DAYS else f"the package index is {age:.0f} days old: apt-get update"
        )
    if path is None:
        text = f"Linux {newest or 'unknown'}, to be built"
    else:
        version = kernel_version(path)
        text = f"Linux {version} {patches(path)}"
        if newest and version != newest:
            text += f": NOT the newest of the package index, {newest}"
    return f"{text} ({trouble})" if trouble else text


def programs() -> list[str]:
    """A line for each program on this machine."""
    lines = [f"Python {platform.python_version()} ({sys.executable})", f"Linux {platform.release()} (this machine)"]
    return lines + [f"{program} {program_version(program)}" for program in PROGRAMS]


def of_guests(kernel: str | None) -> list[str]:
    """A line for the guest kernel, and one for the lab."""
    return [f"guest kernel: {guest_kernel(kernel)}", *filter(None, [lab()])]


def lab() -> str:
    """The lab's kernel and QEMU, from the cache, "" when it has none."""
    cache = distribution.cache_dir()
    known = {}
    for name in ("kernel-newest", "qemu-newest"):
        if answer := archive.last_answer(cache / name):
            known[name] = answer.split()[0]
    if not known:
        return ""
    qemu = known.get("qemu-newest")
    return f"lab: {known.get('kernel-newest', 'no kernel yet')}, QEMU {qemu or program_version('qemu-system-x86_64')}"


def main() -> None:
    """Print all of it."""
    for line in [*programs(), *of_guests(guest.cached_kernel())]:
        say(line)


if __name__ == "__main__":
    main()
