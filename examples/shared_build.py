"""Runs a command in a virtual machine that sees this host's files, but can change only one directory.

python examples/shared_build.py VMLINUX DIRECTORY COMMAND [ARGUMENT]...

The guest's root is a read-only share of this host's root, so its compilers and libraries are there; DIRECTORY is a
second share, the working directory of COMMAND. The command's output appears here, and its exit status is this
program's.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import threading

from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, ShareConfig

INIT = """#!/bin/sh
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/mnt TMPDIR=/mnt
mount -t proc proc /proc
[ -c /dev/null ] || mount -t devtmpfs dev /dev
mount -t virtiofs work /mnt
cd /mnt && {command} </dev/null
echo "{mark}$?"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""
MARK = "exit status of the command: "


def main(kernel: str, directory: str, *command: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        init = os.path.join(folder, "init")  # the guest has the same path: its root is ours
        with open(init, "w") as file:
            file.write(INIT.format(command=shlex.join(command), mark=MARK))
        os.chmod(init, 0o755)
        os.chmod(folder, 0o755)
        reader, writer = os.pipe()
        config = MachineConfig(
            boot=BootConfig(kernel, cmdline=f"init={init}"),
            memory=MemoryConfig(1 << 30),
            cpus=2,
            rootfs=ShareConfig("/", read_only=True, cache="always"),
            shares=(ShareConfig(directory, tag="work", locks="guest"),),  # no other guest works there
            console=ConsoleConfig("fd", writer),
        )
        status: int | None = None

        def show() -> None:
            nonlocal status
            with os.fdopen(reader, errors="replace") as lines:
                for line in lines:
                    if line.startswith(MARK):
                        status = int(line.removeprefix(MARK))
                    else:
                        print(line.rstrip("\r\n"), flush=True)

        thread = threading.Thread(target=show)
        thread.start()
        try:
            with Machine(config) as machine:
                end = machine.run(timeout=600)
        finally:
            os.close(writer)
            thread.join()
    if status is None:
        print(f"the guest ended before the command did: {end.kind} {end.detail}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
