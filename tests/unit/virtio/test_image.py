"""Disk images: opened, locked, measured, or refused with words that help."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.command import descriptors
from vmm.errors import ConfigError
from vmm.virtio.image import Image


@pytest.fixture
def image() -> Iterator[Path]:
    # Not tmp_path, which nobody else may enter
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "disk.img"
        path.write_bytes(bytes(8192))
        yield path


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, whoever runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def refused(path: Path | str, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Image(str(path), **options).close()
    assert str(path) in caught.value.message
    return caught.value


def test_the_size_is_in_sectors(image: Path) -> None:
    opened = Image(str(image))
    assert opened.sectors() == 16
    os.truncate(image, 1 << 40)
    assert opened.sectors() == 1 << 31
    opened.close()
    opened.close()


def test_a_missing_file(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.img")
    assert error.code == "disk-missing"
    assert f"truncate -s 1G {tmp_path}/none.img" in error.hint


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_disk(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/null"):
        assert refused(path, read_only=read_only).code == "disk-kind"


def test_a_file_that_can_only_be_read(image: Path) -> None:
    image.chmod(0o444)
    with as_nobody():
        error = refused(image)
        assert (error.code, error.hint) == ("disk-permission", "it can be read: add ,ro to use it read-only")
        Image(str(image), read_only=True).close()


def test_a_file_that_cannot_be_read(image: Path) -> None:
    image.chmod(0)
    with as_nobody():
        error = refused(image, read_only=True)
    assert error.code == "disk-permission"
    assert "ls -l" in error.hint


@pytest.mark.parametrize("size, words", [(0, "empty"), (1, "size of 1 bytes"), (8191, "multiple of 512")])
def test_sizes_that_a_disk_cannot_have(image: Path, size: int, words: str) -> None:
    os.truncate(image, size)
    error = refused(image)
    assert error.code == "disk-size"
    assert words in error.message
    assert "truncate -s" in error.hint


def test_the_hint_about_the_size_works(image: Path) -> None:
    os.truncate(image, 1000)
    subprocess.run(refused(image).hint.partition(": ")[2], shell=True, check=True)
    opened = Image(str(image))
    assert opened.sectors() == 2
    opened.close()


def test_writers_exclude_everybody(image: Path) -> None:
    writer = Image(str(image))
    for read_only in (False, True):
        error = refused(image, read_only=read_only)
        assert error.code == "disk-in-use"
        assert f"in use by process {os.getpid()} (" in error.message
    writer.close()
    Image(str(image)).close()


def test_readers_share(image: Path) -> None:
    readers = [Image(str(image), read_only=True) for _ in range(3)]
    assert refused(image).code == "disk-in-use"
    for reader in readers:
        reader.close()
    Image(str(image)).close()


def test_another_process_is_named_and_its_lock_ends_with_it(image: Path) -> None:
    code = f"from vmm.virtio.image import Image; i = Image({str(image)!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert f"in use by process {holder.pid} (python" in refused(image).message
        holder.kill()
        holder.wait()
        Image(str(image)).close()


def test_the_content_decides_nothing(image: Path, caplog: pytest.LogCaptureFixture) -> None:
    image.write_bytes(b"QFI\xfb" + bytes(8188))
    with caplog.at_level(logging.WARNING):
        opened = Image(str(image))
    assert opened.sectors() == 16
    assert "looks like a qcow2 image; it is used as raw bytes" in caplog.text
    assert f"qemu-img convert -O raw {image}" in caplog.text
    opened.close()


def test_direct_io_is_aligned_to_what_the_host_wants(image: Path) -> None:
    opened = Image(str(image), direct=True)
    assert opened.alignment in (512, 4096)
    assert os.get_blocking(opened.fd)
    opened.close()


def test_a_failure_leaves_no_descriptor_and_no_lock(image: Path) -> None:
    before = descriptors()
    os.truncate(image, 100)
    refused(image)
    os.truncate(image, 512)
    holder = Image(str(image))
    refused(image)
    holder.close()
    assert descriptors() <= before
