#!/usr/bin/env python3
"""Builds the image that a sandbox's machine boots: the agent as process 1, and crun with its libraries.

Prints the path of the image on stdout. It is an erofs file system, not compressed, so that all machines of a host share
its pages: a machine maps it as read-only persistent memory (virtio-pmem) and runs the programs in place (DAX). The same
sources and packages give the same bytes; the cache is keyed by content.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "guest-kernel")]

import recipe  # noqa: E402
from image import agent  # noqa: E402
from recipe import EPOCH, Progress, RecipeError  # noqa: E402

NAME = "kata.erofs"
FOLDERS = ("bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "usr/bin")
CRUN = "/usr/bin/crun"
SYSTEMD = "libsystemd.so.0"
FILESYSTEM_ID = "70796d6d-0000-4000-8000-000000000002"
TOOLS = {**agent.TOOLS, "crun": "crun", "mkfs.erofs": "erofs-utils", "ldd": "libc-bin", "readelf": "binutils"}
LARGEST = 8 << 20
# A window of persistent memory has whole pieces of this size.
PIECE = 2 << 20


def check_tools() -> None:
    """Raises RecipeError that names what is not installed."""
    recipe.require_tools(TOOLS, "building the guest's image")
    for file, package in agent.NEEDED.items():
        if not file.exists():
            raise RecipeError(f"building the guest's agent needs {file}", f"apt-get install {package}")


def libraries_of(program: str) -> list[Path]:
    """The libraries and the loader that a program or a library needs, at the paths where the loader finds them."""
    listing = recipe.run(["ldd", program])
    if missing := re.findall(r"(\S+) => not found", listing):
        raise RecipeError(f"{program}: its library {missing[0]} is not installed")
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", listing)]


def crun_files() -> list[Path]:
    """crun and its libraries, except the one that :func:`make_systemd` makes, and those that only that one needs."""
    direct = re.findall(r"\(NEEDED\).*\[(.+)\]", recipe.run(["readelf", "--dynamic", "--wide", CRUN]))
    known = libraries_of(CRUN)
    kept = {path for path in known if path.name in direct and path.name != SYSTEMD}
    return [Path(CRUN), *sorted(kept.union(*(libraries_of(str(path)) for path in kept)))]


def make_systemd(tree: Path, work: Path) -> None:
    """A libsystemd for crun whose functions always fail. The guest has no systemd, so none of it is called; but loading
    the real one is half of each start of crun.
    """
    listing = recipe.run(["nm", "--dynamic", "--undefined-only", CRUN])
    needed = sorted(re.findall(r" U (\w+)@(LIBSYSTEMD_\d+)", listing))
    if not needed:
        return
    versions = {version: [name for name, of in needed if of == version] for _, version in needed}
    source, script = work / "systemd.c", work / "systemd.map"
    source.write_text("".join(f"int {name}(void) {{ return -{errno.ENOSYS}; }}\n" for name, _ in needed))
    script.write_text("".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items()))
    folder = next(path.parent for path in libraries_of(CRUN) if path.name == SYSTEMD)
    target = tree / folder.relative_to("/") / SYSTEMD
    flags = ["-shared", "-fPIC", "-nostdlib", "-Os", f"-Wl,-soname,{SYSTEMD}", f"-Wl,--version-script={script}"]
    flags += ["-fno-builtin", "-Wl,--build-id=none", "-Wl,--hash-style=gnu", "-s"]
    recipe.run([os.environ.get("CC", "gcc"), *flags, "-o", str(target), str(source)])


def make_tree(tree: Path, program: Path) -> None:
    """Fill the directory `tree` with the image's files."""
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    shutil.copy(program, tree / "sbin" / "init")
    for file in crun_files():
        target = tree / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    make_systemd(tree, tree.parent)
    for path in tree.rglob("*"):
        path.chmod(0o755)


def make_image(tree: Path, image: Path) -> None:
    """Write the file system, each file from the start of a block, so that it can be mapped directly."""
    options = ["-x-1", f"-T{EPOCH}", f"-U{FILESYSTEM_ID}", "--all-root", "-Enoinline_data"]
    recipe.run(["mkfs.erofs", "--quiet", *options, str(image), str(tree)])
    if image.stat().st_size > LARGEST:
        raise RecipeError(f"the image has {image.stat().st_size} bytes, more than {LARGEST}")
    os.truncate(image, -(-image.stat().st_size // PIECE) * PIECE)


def build(entry: Path, progress: Progress) -> Path:
    """Build the image and publish it as the cache entry `entry`."""
    with recipe.workspace(entry.parent) as work:
        made, tree = work / "made", work / "tree"
        made.mkdir()
        progress.say("compiling the agent")
        try:
            program = agent.compile_agent(work)
        except subprocess.CalledProcessError as error:
            raise RecipeError(
                f"{error.cmd[0]} failed (status {error.returncode}); its error is printed above"
            ) from None
        make_tree(tree, program)
        make_image(tree, made / NAME)
        os.chmod(made / NAME, 0o444)
        progress.say(f"built {NAME} ({(made / NAME).stat().st_size >> 10} KiB)")
        return recipe.publish(made, entry, NAME)


def image_entry() -> Path:
    """The path in the cache of the image for these sources and the installed packages."""
    files = [*agent.inputs(), Path(__file__), *crun_files(), Path("/usr/lib/x86_64-linux-gnu/libprotobuf-nanopb.a")]
    parts = {file.name: recipe.file_digest(file) for file in files}
    parts["libc"] = recipe.file_digest(Path("/usr/lib/x86_64-linux-gnu/libc.a"))
    parts["compiler"] = recipe.run([os.environ.get("CC", "gcc"), "--version"])
    return recipe.cache_root() / "kata" / recipe.digest(parts)


def main() -> Path:
    parser = argparse.ArgumentParser(description="Makes the image that a sandbox's machine boots; prints its path.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also copy the result there")
    arguments = parser.parse_args()
    check_tools()
    entry = image_entry()
    result = recipe.cached(entry, NAME)
    if result is None:
        progress = Progress()
        with recipe.lock(entry.parent, progress):
            result = recipe.cached(entry, NAME) or build(entry, progress)
    return recipe.deliver(result, arguments.output)


if __name__ == "__main__":
    recipe.run_recipe(main)
