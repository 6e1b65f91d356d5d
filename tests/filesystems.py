"""File systems of the host, mounted for a test: those that a share or a container's root may lie on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import SkipTest  # which pytest understands, and the benchmark has no pytest

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/run/lab"
IMAGES = {
    "ext4": (64, ["mkfs.ext4", "-q", "-F"]),
    "xfs": (320, ["mkfs.xfs", "-q", "-f"]),
    "btrfs": (128, ["mkfs.btrfs", "-q", "-f"]),
}
"""Kind: MiB of its image, and what makes it."""


def _mount(stack: ExitStack, *arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SkipTest(f"mount {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", "-l", str(arguments[-1])], check=False)


def _load_loop() -> None:
    """Nobody has made the driver's node in the lab, which would load it."""
    modprobe = shutil.which("modprobe", path=SEARCH)
    if modprobe and not Path("/dev/loop-control").exists():
        subprocess.run([modprobe, "loop"], check=False)


def make_image(kind: str, image: Path, mib: int) -> None:
    """An empty file system of this kind in a new file, most of which is a hole."""
    with image.open("wb") as file:
        file.truncate(mib << 20)
    made = subprocess.run([*IMAGES[kind][1], str(image)], capture_output=True, text=True, env={"PATH": SEARCH})
    assert made.returncode == 0, made.stderr


@contextmanager
def mounted(image: str, kind: str, target: Path) -> Iterator[None]:
    """The file system of this kind in an image file, read-only."""
    with ExitStack() as stack:
        _load_loop()
        _mount(stack, "-t", kind, "-o", "loop,ro", image, target)
        yield


@contextmanager
def filesystem(kind: str, where: Path) -> Iterator[Path]:
    """An empty file system of this kind, below *where*; ``plain``: a directory there.  Skips where there is none."""
    if os.geteuid():
        raise SkipTest("mounting takes root")
    with ExitStack() as stack:
        target = where / f"on-{kind}"
        target.mkdir(exist_ok=True)
        if kind == "tmpfs":
            _mount(stack, "-t", "tmpfs", "none", target)
        elif kind != "plain":
            size, command = IMAGES[kind]
            if not shutil.which(command[0], path=SEARCH):
                raise SkipTest(f"{command[0]} is not installed")
            _load_loop()
            image = where / f"{kind}.img"
            stack.callback(image.unlink, missing_ok=True)
            make_image(kind, image, size)
            _mount(stack, "-t", kind, "-o", "loop", image, target)
        yield target


@contextmanager
def overlay(lower: Path, upper: Path, options: str = "", fill: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """An overlay whose layers are made in these directories; *fill* puts files into the lower one."""
    parts = {
        name: root / name for name, root in (("lower", lower), ("upper", upper), ("work", upper), ("merged", upper))
    }
    for part in parts.values():
        part.mkdir()
    if fill:
        fill(parts["lower"])
    layers = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    with ExitStack() as stack:
        joined = f"{layers},{options}" if options else layers
        _mount(stack, "-t", "overlay", "overlay", "-o", joined, parts["merged"])
        yield parts["merged"]


@contextmanager
def bind(source: Path, target: Path) -> Iterator[None]:
    with ExitStack() as stack:
        _mount(stack, "--bind", source, target)
        yield


# -- files with holes, as disk images are ----------------------------------------------------------------------------


def sparse_copy(source: Path, target: Path) -> Path:
    """Copy a file and leave its holes holes. Returns `target`."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(old.fileno(), min(end - at, 1 << 20), at)
                if not data:
                    break
                if data.count(0) != len(data):  # some file systems do not know holes
                    os.pwrite(new.fileno(), data, at)
                at += len(data)
    return target
