#!/usr/bin/env python3
"""Makes a root disk with a minimal Debian by mmdebstrap, with Debian's own kernel and initrd beside it.

Prints the path of the disk; `vmlinuz` and `initrd.img` are in the same directory. The cache is keyed by this file and
by the versions of its packages that the archive offers; root has an empty password.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import archive
import recipe
from recipe import Progress

SUITE = "trixie"
KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
PACKAGES = ("systemd-sysv", "udev", "dbus", "initramfs-tools", "zstd")
# Of what is in each: a point release, the C library, the shell.
MINIMAL = ("base-files", "libc6", "dash")
TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"}
NAME = "root.ext4"
_FILES = {
    "etc/hostname": "debian\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
}


def make(kernel: str, size: int, progress: Progress) -> Path:
    """The path of the disk of `size` bytes in the cache, made when it is not there. Raises RecipeError."""
    packages = [KERNELS[kernel], *PACKAGES]
    parts = {"recipe": recipe.file_digest(Path(__file__)), "suite": SUITE, "size": str(size)}
    folder = recipe.cache_root() / "debian"
    parts |= archive.versions(folder / "versions", [*packages, *MINIMAL, "systemd"], progress)
    entry = folder / recipe.digest(parts)
    build = partial(_build, packages, size, progress)
    return recipe.make_as_root(entry, NAME, TOOLS, "making a Debian disk", progress, build)


def _build(packages: Sequence[str], size: int, progress: Progress, work: Path, made: Path) -> None:
    tree = work / "tree"
    progress.say(f"mmdebstrap {SUITE} with {', '.join(packages)}")
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    recipe.run([*command, SUITE, str(tree)])
    finish(tree)
    for link in ("vmlinuz", "initrd.img"):
        shutil.copyfile(tree / os.readlink(tree / link), made / link)
        os.chmod(made / link, 0o444)
    progress.say("mke2fs")
    image = made / NAME
    options = "root_owner=0:0,lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "debian", "-E", options]
    recipe.run([*command, "-d", str(tree), str(image), f"{size >> 10}k"])
    os.chmod(image, 0o444)
    progress.say(f"made {NAME} ({os.stat(image).st_blocks >> 11} MiB on the host's disk)")


def finish(tree: Path) -> None:
    """What is no package's: names, and a root without a password."""
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    shadow = tree / "etc/shadow"
    lines = shadow.read_text().splitlines()
    opened = ["root::" + line.split(":", 2)[2] if line.startswith("root:") else line for line in lines]
    shadow.write_text("\n".join(opened) + "\n")
    for left in ("var/cache/apt", "var/lib/apt/lists"):
        for path in (tree / left).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> Path:
    parser = argparse.ArgumentParser(description="Makes a root disk with a minimal Debian and prints its path.")
    parser.add_argument("--kernel", choices=sorted(KERNELS), default="cloud", help="Debian's kernel (default: cloud)")
    arguments = parser.parse_args()
    return make(arguments.kernel, 1 << 30, Progress())


if __name__ == "__main__":
    recipe.run_recipe(main)
