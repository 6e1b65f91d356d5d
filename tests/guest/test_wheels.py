"""The wheels, installed in the machine that runs the guests as their users install them: no compiler, no settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.kata_tools import leftovers, make_rootfs
from tools.where import ROOT

pytestmark = pytest.mark.long  # pip alone takes half a minute in the lab
README = ROOT / "examples" / "sandbox" / "README.md"
STDLIB = ("collections", "encodings", "importlib", "re")
"""The packages with which Python starts."""


def add_python(rootfs: Path) -> None:
    """Copy the distribution's Python to a root file system, with a small part of its library."""
    program = os.path.realpath("/usr/bin/python3")
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in (program, *re.findall(r"(/\S+) \(0x", listing)):
        target = rootfs / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (rootfs / "bin" / "python3").symlink_to(program)
    library = Path("/usr/lib", os.path.basename(program))
    for each in [*library.glob("*.py"), *(path for name in STDLIB for path in (library / name).rglob("*.py"))]:
        target = rootfs / str(each).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each, target)


def test_the_readme_of_sandboxes_runs_from_wheels(tmp_path: Path) -> None:
    index = os.environ.get("PYVMM_WHEELS")
    if not index:
        pytest.skip("`make test-long-guest` builds the wheels")
    (tmp_path / "tools").mkdir()
    for name in ("sh", "readlink", "dirname"):
        (tmp_path / "tools" / name).symlink_to(shutil.which(name) or name)
    environment = {"PATH": str(tmp_path / "tools"), "HOME": str(tmp_path)}
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [str(python), "-m", "pip", "--isolated", "install", "--quiet", "--no-compile", "--no-index"]
    subprocess.run([*pip, "--find-links", index, "pyvmm-sandbox"], check=True, env=environment)
    add_python(make_rootfs(tmp_path / "rootfs"))
    first = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert first is not None
    done = subprocess.run([python, "-c", first[1]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("42\n")
    assert done.stdout.count("a,b\n1,2\n") == 3  # of the three copies
    assert leftovers(tmp_path) == []
