"""The image of the guest: small, and the same bytes wherever and whenever it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "examples" / "kata" / "image" / "build.py"
TOOLS = ("crun", "mkfs.erofs", "nanopb_generator")

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") for tool in TOOLS),
    reason=f"needs {', '.join(TOOLS)}: tools/deps.py kata",
)


def build(cache: Path) -> Path:
    done = subprocess.run(
        [sys.executable, str(BUILD)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return Path(done.stdout.strip())


def test_two_builds_are_the_same_bytes_and_a_third_is_found(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name) for name in ("a", "another-place"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size <= 8 << 20
    before = first.stat().st_mtime_ns
    assert build(tmp_path / "a") == first and first.stat().st_mtime_ns == before
