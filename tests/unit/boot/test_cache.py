"""The cache of parsed kernels: it saves the parser, and nothing in it is believed that could be wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.boot.conftest import age
from tests.unit.boot.images import MIB, kernel
from vmm.boot import cache, loader
from vmm.boot.image import KernelImage


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel())
    age(path)
    return path


def lookup(path: Path) -> KernelImage | None:
    """What the cache has of *path*."""
    fd, state = loader.open_file(str(path), "kernel")
    os.close(fd)
    return cache.load(str(path), os.path.realpath(path).encode(), state)


def entry(home: Path) -> Path:
    (found,) = (home / "pyvmm" / "kernels").iterdir()
    return found


def test_second_time_comes_from_the_cache_and_is_the_same(vmlinux: Path) -> None:
    assert lookup(vmlinux) is None
    first = loader.find_kernel(str(vmlinux))
    assert lookup(vmlinux) == first == loader.find_kernel(str(vmlinux))


def test_warm_start_imports_no_parser(vmlinux: Path) -> None:
    program = (
        "import sys; from vmm.boot.loader import find_kernel; find_kernel(sys.argv[1])\n"
        "print(any(name.split('.')[0] in ('elftools', 'construct') for name in sys.modules))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, vmlinux], check=True, capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]


def test_path_in_the_image_is_the_one_the_user_gave(vmlinux: Path, tmp_path: Path) -> None:
    loader.find_kernel(str(vmlinux))
    link = tmp_path / "link"
    link.symlink_to(vmlinux)
    assert lookup(link) is not None
    assert loader.find_kernel(str(link)).path == str(link)


def rewrite(path: Path) -> None:
    path.write_bytes(kernel(b"\x90" * 64))


def rewrite_with_old_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(kernel(b"\x90" * 64, paddr=32 * MIB))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


def move(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize("change", [rewrite, rewrite_with_old_times, replace, move])
def test_changed_kernel_is_parsed_again(vmlinux: Path, change: Callable[[Path], None]) -> None:
    loader.find_kernel(str(vmlinux))
    change(vmlinux)
    assert lookup(vmlinux) is None


def test_kernel_that_just_changed_is_not_kept(tmp_path: Path) -> None:
    """It could change again within one tick of the file system's clock."""
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel())
    loader.find_kernel(str(path))
    assert lookup(path) is None


def test_every_damaged_byte_is_noticed_and_the_entry_made_again(vmlinux: Path, cache_home: Path) -> None:
    image = loader.find_kernel(str(vmlinux))
    file = entry(cache_home)
    good = file.read_bytes()
    for position in range(len(good)):
        for bad in (0xFF, 0x01):
            file.write_bytes(good[:position] + bytes((good[position] ^ bad,)) + good[position + 1 :])
            assert lookup(vmlinux) is None, position
    for length in range(len(good)):
        file.write_bytes(good[:length])
        assert lookup(vmlinux) is None, length
    file.write_bytes(good + b"\0")
    assert lookup(vmlinux) is None
    assert loader.find_kernel(str(vmlinux)) == image
    assert lookup(vmlinux) == image


def test_entry_that_lies_about_the_kernel_is_not_believed(vmlinux: Path, cache_home: Path) -> None:
    """A segment behind the end of the file, with a right checksum."""
    image = loader.find_kernel(str(vmlinux))
    bad = image.segments[0].__class__(1 << 40, 4096, 4096, 16 * MIB)
    lie = KernelImage(image.path, image.identity, (bad,), 16 * MIB, None)
    entry(cache_home).write_bytes(cache.encode(lie, os.path.realpath(vmlinux).encode()))
    assert lookup(vmlinux) is None


def make_writable_by_all(file: Path) -> None:
    file.chmod(0o666)


def make_a_symlink(file: Path) -> None:
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


def make_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def give_away(file: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(file, 65534, 65534)


@pytest.mark.parametrize("change", [make_writable_by_all, make_a_symlink, make_a_pipe, make_a_folder, give_away])
def test_entry_that_is_not_surely_ours_is_ignored(
    vmlinux: Path, cache_home: Path, change: Callable[[Path], None]
) -> None:
    image = loader.find_kernel(str(vmlinux))
    change(entry(cache_home))
    assert lookup(vmlinux) is None
    assert loader.find_kernel(str(vmlinux)) == image


@pytest.mark.parametrize("home", ["file", "unwritable", "relative", "unset", "nul-long"])
def test_no_cache_is_no_error(vmlinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    if home == "file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    elif home == "unwritable":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    elif home == "relative":
        monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    elif home == "nul-long":
        monkeypatch.setenv("XDG_CACHE_HOME", "/" + "x" * 5000)
    assert loader.find_kernel(str(vmlinux)).entry64 == 16 * MIB
    assert not Path("somewhere").exists()


def test_folder_is_private_and_nothing_else_is_left(vmlinux: Path, cache_home: Path) -> None:
    loader.find_kernel(str(vmlinux))
    file = entry(cache_home)
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700


def test_the_newest_entries_are_kept(vmlinux: Path, cache_home: Path) -> None:
    folder = cache_home / "pyvmm" / "kernels"
    folder.mkdir(parents=True, mode=0o700)
    for number in range(100):
        old = folder / f"fe00-{number:x}"
        old.write_bytes(b"")
        os.utime(old, (1000 + number, 1000 + number))
    first = loader.find_kernel(str(vmlinux))
    assert lookup(vmlinux) == first
    assert sum(file.name == f"fe00-{number:x}" for number in range(37, 100) for file in folder.iterdir()) == 63
    assert len(list(folder.iterdir())) == cache.KEPT == 64


def test_home_is_used_without_xdg(vmlinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    loader.find_kernel(str(vmlinux))
    assert len(list((tmp_path / ".cache/pyvmm/kernels").iterdir())) == 1
