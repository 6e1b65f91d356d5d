#!/usr/bin/env python3
"""Makes the image that a sandbox's machine boots: the agent as process 1, and crun with its libraries.

Prints the path of the image on stdout. It is an erofs file system, not compressed, so that all machines of a host share
its pages: a machine has it as read-only persistent memory (virtio-pmem) and runs the programs in place (DAX). The same
sources and packages give the same bytes; the cache is keyed by content.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

KATA = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(KATA), str(KATA.parents[1] / "guest-kernel")]

import recipe  # noqa: E402
from image import agent  # noqa: E402
from recipe import EPOCH, Progress, RecipeError  # noqa: E402

NAME = "kata.erofs"
FOLDERS = ("bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "usr/bin")
CRUN = "/usr/bin/crun"
FILESYSTEM_ID = "70796d6d-0000-4000-8000-000000000002"
TOOLS = {**agent.TOOLS, "crun": "crun", "mkfs.erofs": "erofs-utils", "ldd": "libc-bin"}
LARGEST = 8 << 20
# A window of persistent memory has whole pieces of this size.
PIECE = 2 << 20


def check_tools() -> None:
    """Raises RecipeError that names what is not installed."""
    recipe.require_tools(TOOLS, "building the guest's image")
    for file, package in agent.NEEDED.items():
        if not file.exists():
            raise RecipeError(f"building the guest's agent needs {file}", f"apt-get install {package}")


def crun_files() -> list[Path]:
    """crun, and the libraries and the loader that it needs, at the paths that the loader looks for them."""
    listing = recipe.run(["ldd", CRUN])
    if missing := re.findall(r"(\S+) => not found", listing):
        raise RecipeError(f"{CRUN}: its library {missing[0]} is not installed")
    return [Path(CRUN), *(Path(path) for path in re.findall(r"(/\S+) \(0x", listing))]


def make_tree(tree: Path, program: Path) -> None:
    """Fill the directory `tree` with the image's files."""
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    shutil.copy(program, tree / "sbin" / "init")
    for file in crun_files():
        target = tree / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for path in tree.rglob("*"):
        path.chmod(0o755)


def make_image(tree: Path, image: Path) -> None:
    """Write the file system, each file from the start of a block, so that it can be mapped as it is."""
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
            raise RecipeError(f"{error.cmd[0]} failed (status {error.returncode}); it has said why") from None
        make_tree(tree, program)
        make_image(tree, made / NAME)
        os.chmod(made / NAME, 0o444)
        progress.say(f"built {NAME} ({(made / NAME).stat().st_size >> 10} KiB)")
        return recipe.publish(made, entry, NAME)


def image_entry() -> Path:
    """Where the cache has the image that these sources and the installed packages make."""
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
