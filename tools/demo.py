"""`make demo`: boots Linux with `pyvmm boot`, here or in the lab, from a root disk that it makes.

The kernel is pyvmm's own when that has been built, else the distribution's, for which nothing needs to be compiled;
`make demo KERNEL=own` builds it. On a terminal the guest's shell is yours. Without one the guest is given a few
commands, the last of which powers it off. The exit status is pyvmm's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from typing import NamedTuple

from tools import distribution, guest
from tools.step import say, step
from tools.where import ROOT, with_kvm

PROMPT = b"guest:~# "
SCRIPT = (b"echo hello from the guest", b"uname -a", b"poweroff")
TIME_LIMIT = 120
MODULES = ("virtio_pci", "virtio_blk", "ext4")
"""Modules that a distribution's kernel needs to mount the root disk."""


class Kernel(NamedTuple):
    """A kernel that the demo boots: its options of `pyvmm boot`, and a line about it."""

    options: list[str]
    about: str


def own(path: str) -> Kernel:
    """The kernel of guest-kernel/, on virtio-mmio."""
    return Kernel(["--kernel", path], "pyvmm's own kernel; `make demo KERNEL=debian` boots the distribution's")


def packaged() -> Kernel:
    """The distribution's kernel, on PCI, with an initrd of ours that has its drivers for the disk.

    Raises DistributionError when the package cannot be had.
    """
    kernel = distribution.find_kernel()
    modules = distribution.write_modules(kernel, MODULES, ROOT / "build")
    files = {modules: "/modules", ROOT / "guest-kernel" / "initrd" / "init": "/init"}
    extra = [word for file, place in files.items() for word in ("--with", f"{file}:{place}")]
    initrd = guest.make("rootfs.py", "--kind", "initrd", *extra)
    other = "`make demo KERNEL=own` builds pyvmm's (5 minutes), which boots faster"
    return Kernel(
        ["--kernel", str(kernel.file), "--initrd", initrd, "--transport", "pci"],
        f"the distribution's kernel {kernel.release}; {other}",
    )


def choose(wanted: str | None) -> Kernel:
    """The kernel that was asked for, by default our own if it is there. Raises DistributionError."""
    if wanted is None and (path := guest.cached_kernel()):
        return own(path)
    return own(guest.kernel()) if wanted == "own" else packaged()


def play(command: list[str]) -> int:
    """Run `command` with its console on pipes; type the next line of SCRIPT whenever the guest's shell prompts."""
    lines = list(SCRIPT)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    unread = b""
    while data := os.read(process.stdout.fileno(), 65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        unread += data
        if lines and PROMPT in unread:
            process.stdin.write(lines.pop(0) + b"\n")
            process.stdin.flush()
            unread = b""
    return process.wait()


def main(arguments: list[str]) -> int:
    """Run the demo; returns the exit status of pyvmm, 1 when there is no kernel."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__, usage="make demo [KERNEL=own|debian]")
    parser.add_argument("--kernel", choices=("own", "debian", "ubuntu"), help="`ubuntu` is the same as `debian`")
    wanted = parser.parse_args(arguments).kernel
    try:
        with step("kernel"):
            kernel = choose(wanted)
            say(f"    {kernel.about}")
    except distribution.DistributionError as error:
        say(f"no kernel to boot: {error}")
        return 1
    with step("root disk"):
        # In the one directory that the lab can write to, and fresh each time: the guest writes to it.
        (ROOT / "build").mkdir(exist_ok=True)
        disk = guest.make("rootfs.py", "--output", str(ROOT / "build" / "demo.ext4"))
    boot = [str(ROOT / ".venv/bin/pyvmm"), "boot", *kernel.options, "--rootfs", disk, "--cpus", "2"]
    boot += ["--memory", "256M", "--cmdline", "loglevel=6"]
    interactive = os.isatty(0) and os.isatty(1)
    if not interactive:
        boot += ["--timeout", str(TIME_LIMIT)]
    with step("booting the guest"):
        say("$ " + shlex.join(["pyvmm", *boot[1:]]))
        command = with_kvm(boot)
        status = subprocess.run(command, cwd=ROOT).returncode if interactive else play(command)
        say(f"the guest {'powered off' if status == 0 else 'did not end well'}: exit status {status}")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
