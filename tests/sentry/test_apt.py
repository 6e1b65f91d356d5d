"""apt installs, upgrades and removes packages on the Sentry as on Linux, in a root on a scratch layer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sentry import apt_root
from tests.sentry.test_command import ENVIRONMENT
from tests.sentry.test_real import SANDBOX

SCRIPT = Path(__file__).parent / "apt.sh"
needs_apt = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dpkg-deb"), reason="needs Debian's packages, and root to run natively"
)
NATIVE = """
    ip link set lo up && cd "$0" && mount -t proc proc proc && mount -t tmpfs -o mode=755 dev dev || exit
    for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
    mkdir dev/pts && mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
    exec chroot . /bin/bash /apt.sh
"""


@needs_apt
def test_apt_behaves_as_on_linux(tmp_path: Path) -> None:
    """From files, and by HTTP. All output is the same, and so are all files afterwards."""
    root = apt_root.make(tmp_path / "root", tmp_path)
    shutil.copy(SCRIPT, root)
    command = [*SANDBOX[:-1], str(root), "--platform", "trap", "--", "/bin/bash", "/apt.sh"]
    ours = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=240, env=ENVIRONMENT)
    space = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    natively = subprocess.run([*space, "sh", "-c", NATIVE, str(root)], stdin=subprocess.DEVNULL, capture_output=True)
    assert len(natively.stdout.splitlines()) > 400, natively
    assert (ours.stderr, ours.returncode) == (natively.stderr, natively.returncode)
    assert ours.stdout.decode().splitlines() == natively.stdout.decode().splitlines()
