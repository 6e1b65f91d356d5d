"""What POSIX and Linux say of files, tried by programs on a share: programs/fs_names.c and fs_data.c say what."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import filesystem, overlay
from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk, run_example
from vmm import ShareConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {"cache": "none"},
    "auto": {"cache": "auto", "acl": True},
    "always": {"cache": "always", "queues": 2},
    "writeback": {"cache": "always", "writeback": True, "acl": True},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in ("none", "always", "writeback") else name
        for name in OPTIONS
    ],
)
def test_files_are_as_they_should_be(boot: Boot, tmp_path: Path, name: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    options = OPTIONS[name]
    guest = boot(disks=[programs_disk()], shares=[ShareConfig(str(shared), **options)], cpus=options.get("queues", 1))
    guest.check(INSTALL_PROGRAMS)
    guest.check("mount -t virtiofs share /mnt")
    for command, least in (("fs_names /mnt/d", 2500), (f"fs_data /mnt/d {'acl' if 'acl' in options else ''}", 400)):
        status, output = guest.run(f"mkdir /mnt/d && {command}", 300)
        found = re.search(r"^fs_\w+: (\d+) checks, (\d+) wrong$", output, re.MULTILINE)
        assert found and int(found[1]) > least, output
        assert (status, found[2]) == (0, "0"), output
        guest.check("rm -rf /mnt/d")
    guest.check("umount /mnt")
    assert list(shared.iterdir()) == []


# -- stress-ng's stressors of file systems, run by a guest on a share: they verify what they read, and look for errors


STRESSORS = {
    "names": "access chdir chmod chown dentry dir dirdeep dirmany filename filerace getdent handle inode-flags mknod "
    "open rename touch utime xattr",
    "data": "copy-file dup fallocate fcntl file-ioctl fpunch fsize fstat hdd io iomix metamix seek sync-file",
    "locks": "flock lease locka lockf lockmix lockofd",
}


# Those of names and data take 75 seconds each; the suites above have most of what they do
@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.long) for kind in ("names", "data")), "locks"])
def test_stressors(guest_kernel: str, tmp_path: Path, kind: str) -> None:
    program = shutil.which("stress-ng")
    if not program:
        pytest.skip("no stress-ng on this host")
    stressors = STRESSORS[kind].split()
    options = f"--seed 1 --temp-path . --verify --dentries 200 --timeout 1 --seq 1 --with {','.join(stressors)}"
    done = run_example(guest_kernel, tmp_path / "work", f"exec {program} {options}")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    passed = next(line for line in said.splitlines() if "passed:" in line)
    assert [name for name in stressors if f"{name} (1)" not in passed] == [], said
    assert list((tmp_path / "work").iterdir()) == [], "it removed what it made"


# -- mounts in a guest on and below what a share has of an overlay: they stay when the host's kernel copies files up


FILES = 600
"""More than the server keeps descriptors of."""


def fill(lower: Path) -> None:
    for each in ("dir/sub", "dir/tmp", "dir/other", "many", "host"):
        (lower / each).mkdir(parents=True)
    for each in ("dir/hosts", "dir/beside", "host/file"):
        (lower / each).write_text("of the lower layer\n")
    for n in range(FILES):
        (lower / f"many/{n}").touch()


# The usual two have both kinds of overlays, and both caches that keep names
@pytest.mark.parametrize(
    ("kinds", "cache"),
    [
        pytest.param((lower, "tmpfs"), cache, id=f"{lower}-{cache}", marks=[pytest.mark.long] * (not usual))
        for lower, cache, usual in (
            ("tmpfs", "auto", True),
            ("ext4", "always", True),
            ("tmpfs", "always", False),
            ("ext4", "auto", False),
            ("tmpfs", "none", False),
            ("ext4", "none", False),
        )
    ],
)
def test_mounts_stay(boot: Boot, tmp_path: Path, kinds: tuple[str, str], cache: str) -> None:
    with ExitStack() as stack:
        upper = stack.enter_context(filesystem(kinds[1], tmp_path))
        lower = upper if kinds[0] == kinds[1] else stack.enter_context(filesystem(kinds[0], tmp_path))
        merged = stack.enter_context(overlay(lower, upper, "xino=off", fill))
        volumes = tmp_path / "volumes"
        (volumes / "a").mkdir(parents=True)
        (volumes / "file").write_text("of the volume\n")
        shares = [ShareConfig(str(merged), tag="root", cache=cache), ShareConfig(str(volumes), tag="volumes")]
        guest = boot(shares=shares)
        guest.check("mkdir -p /tmp/v; mount -t virtiofs root /mnt && mount -t virtiofs volumes /tmp/v")
        guest.check("mount --bind /tmp/v/a /mnt/dir/sub && mount --bind /tmp/v/file /mnt/dir/hosts")
        guest.check("mount -t virtiofs volumes /mnt/dir/other && mount -t tmpfs none /mnt/dir/tmp")
        guest.check("mount --bind /tmp/v/a /mnt/host")
        before = guest.check("cut -d' ' -f2 /proc/mounts | grep ^/mnt")
        for step in (
            "touch /mnt/dir/new && mkdir /mnt/dir/made && mv /mnt/dir/beside /mnt/dir/moved",
            "ls -l /mnt/many >/dev/null; sleep 1.1",  # what is known of names expires after a second
            "ln /mnt/dir/moved /mnt/dir/link && chmod 700 /mnt/dir && rm /mnt/dir/new",
        ):
            guest.check(step)
            (merged / "host-made").mkdir(exist_ok=True)
            (merged / "host/beside").write_text("made by the host")
            guest.check("ls -l /mnt/dir /mnt/host /mnt/dir/sub >/dev/null; echo kept >>/mnt/dir/sub/saved")
            guest.check("echo kept >>/mnt/dir/hosts; echo other >>/mnt/dir/other/saved; echo host >>/mnt/host/of-host")
        assert guest.check("cut -d' ' -f2 /proc/mounts | grep ^/mnt") == before
        assert guest.check("mount | grep -c ' /mnt/dir/tmp type tmpfs'").strip() == "1"
        assert (volumes / "a/saved").read_text() == "kept\n" * 3
        assert (volumes / "file").read_text() == "of the volume\n" + "kept\n" * 3
        assert (volumes / "saved").read_text() == "other\n" * 3
        assert (volumes / "a/of-host").read_text() == "host\n" * 3
        assert sorted(path.name for path in (merged / "dir/sub").iterdir()) == []
        assert (merged / "dir/hosts").read_text() == "of the lower layer\n"
        assert sorted(path.name for path in (merged / "host").iterdir()) == ["beside", "file"]
        guest.check("umount /mnt/host /mnt/dir/tmp /mnt/dir/other /mnt/dir/hosts /mnt/dir/sub /mnt")
