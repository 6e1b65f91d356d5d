"""`make demo`: builds the guest kernel and a root disk, then boots them with `pyvmm boot`, here or in the lab.

On a terminal the guest's shell is yours. Without one the guest is given a few commands, the last of which powers it
off. The exit status is pyvmm's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from tools import guest
from tools.step import say, step
from tools.where import ROOT, with_kvm

PROMPT = b"guest:~# "
SCRIPT = (b"echo hello from the guest", b"uname -a", b"poweroff")
TIME_LIMIT = 120


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


def main() -> int:
    """Run the demo; returns the exit status of pyvmm."""
    with step("guest kernel"):
        kernel = guest.kernel()
    with step("root disk"):
        # In the one directory that the lab can write to, and fresh each time: the guest writes to it.
        (ROOT / "build").mkdir(exist_ok=True)
        disk = guest.make("rootfs.py", "--output", str(ROOT / "build" / "demo.ext4"))
    boot = [str(ROOT / ".venv/bin/pyvmm"), "boot", "--kernel", kernel, "--rootfs", disk, "--cpus", "2"]
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
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
