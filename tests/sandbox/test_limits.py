"""Limits of a sandbox, on the Sentry, which runs here without a machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.sandbox.test_isolation import BEGIN, Python, pytestmark, python, rootfs  # noqa: F401  # its fixtures

needs_loop = pytest.mark.skipif(
    not os.path.exists("/dev/loop-control") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None,
    reason="no loop devices, or no mkfs.ext4",
)


@needs_loop
def test_a_full_disk_is_an_error_inside_and_the_image_stays(python: Python, rootfs: Path) -> None:  # noqa: F811
    code = """
import errno, glob, os
from pyvmm_kata.bundle import writable_layer
writable_layer.PLACE = place
def layers():
    return [name for name in glob.glob("/sys/block/loop*/loop/backing_file") if place in open(name).read()]
with Sandbox(rootfs, isolation="sentry", disk="16M", **where) as box:
    done = box.run("head -c 30000000 /dev/zero >/tmp/full; echo $?; wc -c </tmp/full")
    assert "No space left on device" in done.stderr and done.stdout.split()[0] == "1", done
    assert 8 << 20 <= int(done.stdout.split()[1]) < 16 << 20, done
    assert raises(OSError, box.files.write, "/tmp/more", b"1" * 5000000).errno == errno.ENOSPC
    box.files.remove("/tmp/full")
    box.files.write("/etc/new", b"1" * 5000000)
    box.files.remove("/usr/bin/seq")
    assert not box.files.exists("/usr/bin/seq") and len(box.files.read("/etc/new")) == 5000000
    assert len(layers()) == 1
while layers():
    time.sleep(0.05)  # the kernel removes the mounts after the last process
assert os.path.exists(rootfs + "/usr/bin/seq") and not os.path.exists(rootfs + "/etc/new")
for size in ("1M", "x", "999999999T"):
    raises(VmmError, Sandbox, rootfs, isolation="sentry", disk=size, **where)
"""
    done = python("from vmm import VmmError\n" + BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_processes_and_output(python: Python) -> None:  # noqa: F811
    code = """
with Sandbox(rootfs, isolation="sentry", processes=20, **where) as box:
    done = box.run("for i in $(seq 50); do sleep 600 >/dev/null 2>&1 & done", timeout=300)
    assert "Cannot fork" in done.stderr and box.stats().processes_limit == 20, done
with Sandbox(rootfs, isolation="sentry", **where) as box:
    done = box.run("yes | head -c 3000000", max_output=1000)
    assert len(done.stdout) == 1000 and done.truncated and done.ok
raises(VmmError, Sandbox, rootfs, processes=-1, **where)
"""
    done = python("from vmm import VmmError\n" + BEGIN + code)
    assert done.returncode == 0, done.stderr
