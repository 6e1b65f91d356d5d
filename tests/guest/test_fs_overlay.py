"""Mounts in a guest on and below what a share has of an overlay: they stay when the host's kernel copies files up."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.filesystems import filesystem, overlay
from tests.guest.conftest import Boot
from vmm import ShareConfig

FILES = 600
"""More than the server keeps descriptors of."""


def fill(lower: Path) -> None:
    for each in ("dir/sub", "dir/tmp", "dir/other", "many", "host"):
        (lower / each).mkdir(parents=True)
    for each in ("dir/hosts", "dir/beside", "host/file"):
        (lower / each).write_text("of the lower layer\n")
    for n in range(FILES):
        (lower / f"many/{n}").touch()


@pytest.mark.parametrize("cache", ["none", "auto", "always"])
@pytest.mark.parametrize("kinds", [("tmpfs", "tmpfs"), ("ext4", "tmpfs")], ids=["one-fs", "two-fs"])
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
            "ls -l /mnt/many >/dev/null; sleep 1.1",
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
