"""drgn on a guest that runs, by its kernel's own types: `make test-drgn` builds the kernel that has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.guest.vmfixture import boot_guest
from tools import guest as recipes
from tools.where import PYVMM, ROOT
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.kernel import open_machine


def debug_kernel() -> Path:
    """Our kernel with its types beside it, when it has been built."""
    if path := recipes.cached_kernel("--config", str(ROOT / "guest-kernel" / "debug.config")):
        return Path(path)
    pytest.skip("the kernel with debug information is not in the cache: make test-drgn builds it")


def test_the_processes_of_a_guest_are_seen_from_outside(fresh_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    kernel = debug_kernel()
    types = str(kernel.with_name("vmlinux.debug"))
    guest = boot_guest(str(kernel), rootfs=fresh_disk, cpus=2)
    try:
        guest.start_shell()
        guest.check("sleep 4321 & echo $! >/tmp/pid")
        pid = int(guest.check("cat /tmp/pid"))

        program = open_machine(guest.machine, types)
        from drgn.helpers.linux.fs import for_each_mount, mount_dst
        from drgn.helpers.linux.printk import get_printk_records

        assert program["init_uts_ns"].name.nodename.string_() == b"pyvmm"
        assert b"/proc" in [mount_dst(mount) for mount in for_each_mount(program)]
        assert any(b"Linux version 6." in record.text for record in get_printk_records(program))

        with_gdb = GdbServer(guest.machine, GdbTarget(path=str(tmp_path / "gdb")))
        command = [PYVMM, "debug", "--vm", f"unix:{tmp_path}/gdb", "--vmlinux", types]
        command += ["--script", str(ROOT / "examples" / "guest_processes.py")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        with_gdb.close()
        assert done.returncode == 0, done.stderr
        found = {int(row[0]): row[1:] for row in map(str.split, done.stdout.splitlines())}
        assert found[1][0] == "0" and found[1][2] in ("init", "sh", "busybox"), done.stdout
        assert found[pid][2] == "sleep" and found[2][2] == "kthreadd", done.stdout
        assert guest.check("echo it runs all the time") == "it runs all the time\n"
    finally:
        guest.close()
