"""A share with more than one side to it: the host, another guest, and a VMM that is killed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from vmm import ShareConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def mount(boot: Boot, shared: Path, *, programs: bool = False, **options: object) -> Guest:
    guest = boot(
        disks=[programs_disk()] if programs else [],
        shares=[ShareConfig(str(shared), **options)],  # type: ignore[arg-type]
    )
    if programs:
        guest.check(INSTALL_PROGRAMS)
    guest.check("mount -t virtiofs share /mnt")
    return guest


def test_cache_none_sees_the_host_at_once(boot: Boot, shared: Path) -> None:
    (shared / "file").write_text("first\n")
    guest = mount(boot, shared, cache="none")
    assert guest.check("cat /mnt/file; exec 3</mnt/file") == "first\n"
    (shared / "file").write_text("second, and longer\n")
    assert guest.check("stat -c %s /mnt/file; cat /mnt/file; cat <&3") == "19\nsecond, and longer\nsecond, and longer\n"
    (shared / "new").touch()
    assert guest.check("ls /mnt").split() == ["file", "new"]
    (shared / "file").unlink()
    assert guest.run("stat /mnt/file")[0] != 0


def test_cache_auto_sees_the_host_after_a_second(boot: Boot, shared: Path) -> None:
    (shared / "file").write_text("first\n")
    guest = mount(boot, shared, cache="auto")
    assert guest.check("cat /mnt/file") == "first\n"
    (shared / "file").write_text("second, and longer\n")
    (shared / "new").touch()
    # a second is what is promised
    assert guest.check("sleep 1.1; cat /mnt/file; ls /mnt").split() == ["second,", "and", "longer", "file", "new"]
    (shared / "file").unlink()
    assert guest.run("sleep 1.1; cat /mnt/file")[0] != 0  # a second is what is promised


def test_cache_always_keeps_what_it_has(boot: Boot, shared: Path) -> None:
    (shared / "file").write_text("first\n")
    guest = mount(boot, shared, cache="always")
    assert guest.check("cat /mnt/file; stat -c %s /mnt/file") == "first\n6\n"
    (shared / "file").write_text("second, and longer\n")
    assert guest.check("sleep 1.5; stat -c %s /mnt/file; cat /mnt/file") == "6\nfirst\n"  # longer than "auto" keeps it
    guest.check("echo 3 >/proc/sys/vm/drop_caches; umount /mnt; mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/file") == "second, and longer\n"


@pytest.mark.parametrize("how", ["flock", "fcntl"])
def test_two_guests_lock_each_other_out(boot: Boot, shared: Path, how: str) -> None:
    """Each adds to a counter that only its lock protects."""
    guests = [mount(boot, shared, cache="none", programs=True) for _ in range(2)]
    for guest in guests:
        guest.check(f"fs_count {how} /mnt/counter 50 & echo started")
    for guest in guests:
        guest.check("wait $!")
    assert (shared / "counter").read_text() == "100\n"
    guests[0].check(f"mkfifo /tmp/hold; fs_count {how} /mnt/counter 0 </tmp/hold >/tmp/held & exec 9>/tmp/hold")
    guests[0].check("until grep -q locked /tmp/held; do :; done")
    assert guests[1].run(f"fs_count {how} /mnt/counter 0 </dev/null")[0] == 3
    guests[1].check(f"fs_count {how} /mnt/counter 1 & sleep 0.5")  # until it waits for the lock, which nothing shows
    assert guests[1].check("ls /mnt").split() == ["counter"], "nobody else waits with it"
    assert (shared / "counter").read_text() == "100\n"
    guests[0].check("exec 9>&-; wait")
    guests[1].check("wait")
    assert (shared / "counter").read_text() == "101\n"


KILLED = """
import sys
from tests.guest.vmfixture import boot_guest
from vmm import ShareConfig
guest = boot_guest(sys.argv[1], rootfs=sys.argv[2], shares=[ShareConfig(sys.argv[3], cache="always", writeback=True)])
guest.start_shell()
guest.check("mount -t virtiofs share /mnt")
print("mounted", flush=True)
guest.type('''1
%s
.
''')
written = 0
while True:
    guest.drain()
    console = guest.console
    sys.stdout.write(console[written:]); written = len(console); sys.stdout.flush()
    import time; time.sleep(0.02)
"""


def test_what_was_synced_is_there_when_the_vmm_is_killed(guest_kernel: str, fresh_disk: Path, shared: Path) -> None:
    import base64

    loop = "n=0; while true; do n=$((n + 1)); echo record $n >/mnt/r$n; sync /mnt/r$n; echo synced-$n.; done"
    code = KILLED % base64.b64encode(loop.encode()).decode()
    process = subprocess.Popen(
        [sys.executable, "-c", code, guest_kernel, str(fresh_disk), str(shared)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + RUN_TIMEOUT
    try:
        while b"synced-50." not in said:
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            assert data, f"it ended or hangs: {said.decode(errors='replace')}"
            said += data
    finally:
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
        process.wait()
    last = max(map(int, re.findall(rb"synced-(\d+)\.", said)))
    assert last >= 50
    for n in range(1, last + 1):
        assert (shared / f"r{n}").read_text() == f"record {n}\n"


@pytest.mark.parametrize("by", ["guest", "host"])
def test_power_off_with_files_open(boot: Boot, shared: Path, by: str) -> None:
    guest = mount(boot, shared)
    guest.check("exec 5>/mnt/open; echo written >&5; echo other >/mnt/other; cd /mnt")
    if by == "guest":
        assert guest.power_off().kind == "poweroff"
    else:
        guest.machine.stop()
        guest.wait()
    guest.machine.close()
    assert (shared / "open").read_text() == "written\n"
    assert (shared / "other").read_text() == "other\n"


def test_a_share_that_vanishes(boot: Boot, shared: Path) -> None:
    """The host removes it under the guest: errors, nothing else."""
    (shared / "d").mkdir()
    (shared / "d/file").write_text("x" * 100)
    guest = mount(boot, shared, cache="none")
    guest.check("exec 4</mnt/d/file; cd /mnt/d")
    (shared / "d/file").unlink()
    (shared / "d").rmdir()
    shared.rmdir()
    assert guest.check("wc -c <&4").strip() == "100", "what is open stays"
    for command in ("ls /mnt/d", "echo x >/mnt/new", "mkdir /mnt/x"):
        assert guest.run(command)[0] != 0
    guest.check("cd /; exec 4<&-; umount /mnt")
    guest.check("true")


def test_a_full_host_disk(boot: Boot, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "small", small], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        guest = boot(shares=[ShareConfig(str(small))])
        guest.check("mount -t virtiofs share /mnt")
        status, output = guest.run("dd if=/dev/zero of=/mnt/big bs=64k count=100")
        assert status != 0 and "No space left on device" in output
        guest.check("rm /mnt/big && echo fits >/mnt/fits && umount /mnt")
        assert (small / "fits").read_text() == "fits\n"
        guest.power_off()
        guest.close()
    finally:
        subprocess.run(["umount", small], check=True)
