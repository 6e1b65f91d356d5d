"""The kernel inside of a bzImage: unpacked once, and never taken for another."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.boot.images import ADDRESS, CODE, MIB, bzimage, kernel
from vmm.boot import cache
from vmm.boot.loader import find_kernel
from vmm.errors import ConfigError

ELF = kernel(b"\xf4" * 100, 32 * MIB)


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd on this host")
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


def with_size(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """As Linux's build does it: the size behind what was compressed."""
    return lambda data: compress(data) + len(data).to_bytes(4, "little")


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": with_size(lzma.compress),
    "lzma": with_size(lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "bzip2": with_size(bz2.compress),
    "zstd": with_size(zstd),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pyvmm/kernels"


def write(path: Path, data: bytes, seconds: int = 1) -> str:
    """A file that nobody has changed for a while."""
    path.write_bytes(data)
    os.utime(path, (seconds, seconds))
    return str(path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of last change of a file's node is now, whatever it says of its content."""
    monkeypatch.setattr(cache, "SETTLED_NS", -1)


def unpacked(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.elf"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", COMPRESS)
def test_the_kernel_inside_is_what_is_booted(tmp_path: Path, folder: Path, kind: str) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(COMPRESS[kind](ELF), init_size=64 * MIB))
    for _ in range(2):
        image = find_kernel(path)
        assert image.pvh_entry == 32 * MIB and not image.setup
        assert Path(image.path).read_bytes() == ELF
        assert [image.path] == [str(each) for each in unpacked(folder)]


@pytest.mark.usefixtures("settled")
def test_a_user_can_have_the_kernel_unpack_itself(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF), init_size=64 * MIB))
    image = find_kernel(path, unpack=False)
    assert (image.path, image.entry64) == (path, ADDRESS + CODE)
    assert unpacked(folder) == []


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "payload",
    [b"", b"1234567", b"\x02\x21\x4c\x18" + bytes(100), with_size(lzma.compress)(b"no ELF file".ljust(100))],
    ids=["nothing", "short", "lz4", "no ELF"],
)
def test_what_is_not_understood_unpacks_itself(tmp_path: Path, folder: Path, payload: bytes) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(payload.ljust(16), payload_length=len(payload)))
    assert find_kernel(path).entry64 == ADDRESS + CODE
    assert unpacked(folder) == []


def damage(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "payload",
    [
        damage(gzip.compress(ELF), 60),
        damage(COMPRESS["xz"](ELF), 80),
        gzip.compress(ELF)[:-4] + (len(ELF) + 1).to_bytes(4, "little"),
        lzma.compress(ELF) + (len(ELF) - 1).to_bytes(4, "little"),
        lzma.compress(ELF) + (len(ELF) + 1).to_bytes(4, "little"),
        lzma.compress(bytes(100 * MIB)) + (200 * MIB).to_bytes(4, "little"),
    ],
    ids=["gzip", "xz", "longer", "xz shorter", "xz longer", "bomb"],
)
def test_damaged_payloads_are_told_with_numbers(tmp_path: Path, folder: Path, payload: bytes) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(payload, init_size=64 * MIB))
    with pytest.raises(ConfigError, match=f"{len(payload)} bytes of") as caught:
        find_kernel(path)
    assert path in str(caught.value) and caught.value.code == "kernel-payload"
    assert "--entry linux64" in caught.value.hint
    assert unpacked(folder) == []


@pytest.mark.usefixtures("settled")
def test_a_new_kernel_of_the_same_name_replaces_the_old_one(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "vmlinuz"
    first = find_kernel(write(path, bzimage(gzip.compress(ELF), init_size=64 * MIB)))
    other = kernel(b"\x90" * 100, 48 * MIB)
    second = find_kernel(write(path, bzimage(gzip.compress(other), init_size=64 * MIB), 2))
    assert (first.pvh_entry, second.pvh_entry) == (32 * MIB, 48 * MIB)
    assert len(unpacked(folder)) == 1


@pytest.mark.usefixtures("settled")
def test_a_file_that_others_can_write_is_not_trusted(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF), init_size=64 * MIB))
    find_kernel(path)
    (kept,) = unpacked(folder)
    kept.write_bytes(kernel(b"\xcc" * 100, 16 * MIB))
    kept.chmod(0o666)
    image = find_kernel(path)
    assert image.pvh_entry == 32 * MIB
    assert Path(image.path).read_bytes() == ELF
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")
    assert find_kernel(path).pvh_entry == 32 * MIB
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_place_to_keep_it_the_kernel_unpacks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "vmlinuz", bzimage(gzip.compress(ELF)))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    assert find_kernel(path).entry64 == ADDRESS + CODE
