#!/usr/bin/env python3
"""Makes the root file system of a container with a Debian: to work in (Python, a C compiler, apt), or with servers.

Prints the path of an erofs image on stdout; `hello.deb`, a package that is not installed in it, is in the same
directory. The cache is keyed by this file and by the versions of its packages that the archive offers.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from debian import MINIMAL, SUITE

import archive
import recipe
from recipe import EPOCH, Progress

PACKAGES = {
    "work": ("apt", "gcc", "libc6-dev", "python3"),
    "servers": ("apt", "dbus", "nginx", "nodejs", "postgresql", "python3-pip", "redis-server", "systemd-sysv"),
}
MORE = {"work": ("python3-minimal",), "servers": ("systemd",)}
OFFERED = "hello"
TOOLS = {"mmdebstrap": "mmdebstrap", "mkfs.erofs": "erofs-utils"}
NAME = "debian.erofs"
UNUSED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
FILESYSTEM_ID = "70796d6d-0000-4000-8000-000000000003"
SECTOR = 4096


def make(kind: str, progress: Progress) -> Path:
    """The path of the image in the cache, made when it is not there. Raises RecipeError."""
    parts = {"recipe": recipe.file_digest(Path(__file__)), "suite": SUITE, "kind": kind}
    folder = recipe.cache_root() / "container"
    parts |= archive.versions(folder / "versions", [*PACKAGES[kind], *MORE[kind], *MINIMAL], progress)
    entry = folder / recipe.digest(parts)
    build = partial(_build, PACKAGES[kind], progress)
    return recipe.make_as_root(entry, NAME, TOOLS, "making a container's Debian", progress, build)


def _build(packages: Sequence[str], progress: Progress, work: Path, made: Path) -> None:
    tree = work / "tree"
    progress.say(f"mmdebstrap {SUITE} with {', '.join(packages)}")
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED]
    download = f'chroot "$1" sh -c "cd /root && apt-get -q -o APT::Sandbox::User=root download {OFFERED}"'
    recipe.run([*command, f"--customize-hook={download}", SUITE, str(tree)])
    (package,) = (tree / "root").glob(f"{OFFERED}_*.deb")
    package.rename(made / f"{OFFERED}.deb")
    progress.say("mkfs.erofs")
    image = made / NAME
    recipe.run(["mkfs.erofs", "--quiet", f"-T{EPOCH}", f"-U{FILESYSTEM_ID}", str(image), str(tree)])
    os.truncate(image, -(-image.stat().st_size // SECTOR) * SECTOR)
    for path in (image, made / f"{OFFERED}.deb"):
        os.chmod(path, 0o444)
    progress.say(f"made {NAME} ({image.stat().st_size >> 20} MiB)")


def main() -> Path:
    parser = argparse.ArgumentParser(description="Makes a Debian for containers, an erofs image, and prints its path.")
    parser.add_argument("--kind", choices=sorted(PACKAGES), default="work", help="what is in it (default: work)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also copy the result there")
    arguments = parser.parse_args()
    return recipe.deliver(make(arguments.kind, Progress()), arguments.output)


if __name__ == "__main__":
    recipe.run_recipe(main)
