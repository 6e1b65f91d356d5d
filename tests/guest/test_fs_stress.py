"""stress-ng's stressors of file systems, run by a guest on a share: they verify what they read, and look for errors.

Left out: link, symlink and unlink, which make thousands of files whatever the time, and stressors for what a share does
not have (fiemap, chattr, verity, ACLs without ``acl``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.guest.shared import run_example

STRESSORS = {
    "names": "access chdir chmod chown dentry dir dirdeep dirmany filename filerace getdent handle inode-flags mknod "
    "open rename touch utime xattr",
    "data": "copy-file dup fallocate fcntl file-ioctl fpunch fsize fstat hdd io iomix metamix seek sync-file",
    "locks": "flock lease locka lockf lockmix lockofd",
}


@pytest.mark.parametrize("kind", STRESSORS)
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
