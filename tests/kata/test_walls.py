"""What a guest, or another user of the host, could do to the runtime's own files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm_kata.errors import HostError
from pyvmm_kata.oci.pid_file import write_pid
from pyvmm_kata.sandbox.console_log import LIMIT, ConsoleLog


def test_the_console_does_not_fill_the_hosts_memory(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    log = ConsoleLog(folder)
    os.write(log.fileno(), b"first\n")
    for _ in range(5 * LIMIT // 4096):
        os.write(log.fileno(), b"x" * 4095 + b"\n")
    os.write(log.fileno(), b"last\n")
    log.close()
    os.close(folder)
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * LIMIT
    assert (tmp_path / "console.log").read_text().endswith("last\n")


def test_a_pid_file_follows_nobodys_link(tmp_path: Path) -> None:
    target = tmp_path / "of somebody else"
    target.write_text("precious")
    for name in ("pid.new", f"pid.{os.getpid()}.new"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(HostError, match="File exists"):
        write_pid(str(tmp_path / "pid"), 1)
    (tmp_path / f"pid.{os.getpid()}.new").unlink()
    (tmp_path / "pid").symlink_to(target)
    write_pid(str(tmp_path / "pid"), 1)
    assert (tmp_path / "pid").read_text() == "1"
    assert not (tmp_path / "pid").is_symlink()
    assert target.read_text() == "precious"


LATE_MOUNTS = """
import os, stat, sys
from pyvmm_kata.host import mounts

mounts.enter_namespace()
source, folder = sys.argv[1:]
os.mknod(f"{source}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mkdir(f"{source}/below")
mounts.mount("tmpfs", f"{source}/below", "tmpfs", 0)
os.mknod(f"{source}/below/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.symlink("null", f"{source}/link")
os.close(os.open(f"{source}/null", os.O_RDWR))
shared = mounts.SharedDirectory(folder)
shared.make()
shared.bind(source, "c/rootfs")
shared.bind(f"{source}/null", "c/file")
options = [f"lowerdir={source}", f"upperdir={source}/below/up", f"workdir={source}/below/work"]
for name in ("up", "work"):
    os.mkdir(f"{source}/below/{name}")
shared.overlay("c/overlay", options)
for top in (shared.work, shared.path):
    for name in ("rootfs/null", "rootfs/below/null", "rootfs/link", "file", "overlay/null"):
        try:
            os.close(os.open(f"{top}/c/{name}", os.O_RDWR))
            print("opened", name)
        except OSError as error:
            assert error.errno in (13, 40), error  # EACCES: nodev; ELOOP: nosymfollow
with open("/proc/self/mountinfo") as lines:
    late = [line.split() for line in lines if f"{folder}/" in line and "/c/" in line.split()[4]]
print(len(late), sum({"nosuid", "nodev", "noexec"} <= set(line[5].split(",")) for line in late))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and mounts them")
def test_mounts_that_come_later_have_no_devices(tmp_path: Path) -> None:
    """The share's server follows them; what it set for its own tree does not hold for them."""
    for name in ("source", "folder"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LATE_MOUNTS, str(tmp_path / "source"), str(tmp_path / "folder")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("8 8\n", "")
