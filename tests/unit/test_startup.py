"""The file that a start's modules come from: it is used, and never believed over the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from tests import tiny

SITE = next(path for path in sys.path if path.endswith("site-packages"))


class Copy:
    """A copy of the package, and starts from it."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "vmm"
        shutil.copytree(Path(vmm.__file__).parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.kernel = tiny.make(folder, tiny.say("hello\n"), tiny.POWEROFF)
        self.folder = folder

    @property
    def kept(self) -> Path:
        return self.package / "faststart" / "__pycache__" / f"bundle.{sys.implementation.cache_tag}.bin"

    def boot(self, before: str = "") -> tuple[str, list[str]]:
        """Boot with it: the output, and the modules that came from the file."""
        code = (
            f"import sys; sys.path[:0] = [{str(self.folder)!r}]; sys.path.append({SITE!r})\n{before}\n"
            "from vmm.faststart import bundle; bundle.install()\n"
            "from vmm.cli.main import main\n"
            f"status = main(['boot', '--kernel', {self.kernel!r}])\n"
            "sys.stderr.write(' '.join(n for n, m in sys.modules.items() if m.__loader__ is bundle._Finder))\n"
            "sys.exit(status)"
        )
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        run = subprocess.run(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
        )
        assert run.returncode == 0, run.stderr
        return run.stdout, run.stderr.split()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_the_second_start_takes_its_modules_from_the_file(copy: Copy) -> None:
    assert copy.boot() == ("hello\n", [])
    output, modules = copy.boot()
    assert output == "hello\n"
    assert {"vmm.cli.boot", "vmm.machine.machine", "vmm.kvm.vm"} <= set(modules)


def test_a_changed_source_counts_at_once_and_is_kept_anew(copy: Copy) -> None:
    copy.boot()
    source = copy.package / "machine" / "machine.py"
    source.write_text(source.read_text() + "\nprint('changed', flush=True)\n")
    output, modules = copy.boot()
    assert output == "changed\nhello\n"
    assert "vmm.machine.machine" not in modules and "vmm.memory" in modules
    output, modules = copy.boot()
    assert output == "changed\nhello\n"
    assert "vmm.machine.machine" in modules


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_file_that_is_none_is_made_anew(copy: Copy, damage: bytes | None) -> None:
    copy.boot()
    good = copy.kept.read_bytes()
    copy.kept.write_bytes(good[:5000] if damage is None else damage)
    assert copy.boot() == ("hello\n", [])
    assert copy.boot()[1]


def test_nothing_is_written_where_byte_code_is_not(copy: Copy) -> None:
    copy.boot("sys.dont_write_bytecode = True")
    assert not copy.kept.exists()
    assert copy.boot("sys.pycache_prefix = '/nonexistent'") == ("hello\n", [])
