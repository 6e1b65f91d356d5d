"""Mounts change and show on the Sentry as they do in a mount namespace of Linux."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm_sentry.share import Share
from tests.sentry.conftest import Compile
from tests.sentry.test_overlay import make_root, make_tree, run_above

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_calls_for_mounts_return_what_they_return_on_linux(
    platform: Path, compile_static: Compile, folder: str
) -> None:
    """Results, /proc/self/mountinfo and statfs, in a new folder of a tmpfs."""
    program = compile_static("mounts")
    command = ["unshare", "--mount", "--propagation", "private", str(program), folder]
    native = subprocess.run(command, capture_output=True, text=True)
    ours = subprocess.run([platform, "--", program, folder], capture_output=True, text=True, timeout=120)
    assert native.returncode == ours.returncode == 42, (native.stderr, ours.stderr)
    assert len(native.stdout.splitlines()) > 240
    assert ours.stdout.splitlines() == native.stdout.splitlines()


ON_AN_OVERLAY = """
    mkdir -p /mnt && mount -t tmpfs x /mnt && mkdir /mnt/upper /mnt/work /mnt/merged || exit
    layers=lowerdir={lower},upperdir=/mnt/upper,workdir=/mnt/work,index=on
    mount -t overlay overlay -o "$layers" /mnt/merged && {program} /mnt/merged; cd /mnt/upper && find . | sort
    """
"""Runs a program on an overlay, and lists the upper layer afterwards."""


def test_an_overlay_behaves_as_that_of_linux(tmp_path: Path, platform: Path, compile_static: Compile) -> None:
    """Linux lists other inode numbers than stat() returns, and does not copy up a file whose name was removed."""
    program = compile_static("layers")
    root = make_root(tmp_path / "root")
    shutil.copy(program, root / "layers")
    for lower in (tmp_path / "lower", root / "lower"):
        make_tree(lower)
    script = ON_AN_OVERLAY.format(lower=tmp_path / "lower", program=program)
    native = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "merged" in native.stderr:
        pytest.skip(f"an overlay cannot be mounted here: {native.stderr}")
    with Share(str(root), 256 << 20, read_only=True) as share:
        script = ON_AN_OVERLAY.format(lower="/lower", program="/layers")
        ours = run_above(share, platform, "/bin/busybox", "sh", "-c", script)
    rows = [
        re.sub(r"\d+ wrong", "", text).splitlines() for text in (native.stdout, ours.stdout.decode(errors="replace"))
    ]
    assert len(rows[0]) > 500
    different = [pair for pair in zip(*rows, strict=True) if pair[0] != pair[1]]
    assert {pair[0].split(maxsplit=1)[1] for pair in different} <= {"fchmod(fd, 0600): EEXIST"}
