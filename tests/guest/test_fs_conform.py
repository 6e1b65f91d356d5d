"""What POSIX and Linux say of files, tried by programs on a share: programs/fs_names.c and fs_data.c say what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from vmm import ShareConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {"cache": "none"},
    "auto": {"cache": "auto", "acl": True},
    "always": {"cache": "always", "queues": 2},
    "writeback": {"cache": "always", "writeback": True, "acl": True},
}


@pytest.mark.parametrize("name", OPTIONS)
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
