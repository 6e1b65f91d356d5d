"""`python -m tools.wheels [--output DIR] [--dependencies | PACKAGE...]`: wheels and sdists of all packages here.

A wheel is built from its sdist, so the sdist is complete. auditwheel adds the libraries that an extension needs, and
names the oldest C library with which the wheel works: that follows from the machine that builds it. pyvmm-guest has no
sdist, and its kernel and image come from the cache of their recipes where that has them.

With --dependencies the folder is an index for a machine without a network and with the same version of Python:
`pip install --no-index --find-links DIR pyvmm-sandbox`.

The tools are those of .venv (`python3 tools/deps.py check kernel kata wheels`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.step import step
from tools.where import ROOT

PACKAGES = {
    "pyvmm": ".",
    "pyvmm-guest": "examples/guest",
    "pyvmm-kata": "examples/kata",
    "pyvmm-sentry": "examples/sentry",
    "pyvmm-sandbox": "examples/sandbox",
    "pyvmm-firecracker": "examples/firecracker",
    "pyvmm-mcp": "examples/mcp",
    "pyvmm-server": "examples/server",
}
"""Their folders."""
WITHOUT_SDIST = ("pyvmm-guest",)
MOST = 20 << 20
"""Bytes of a wheel."""


def environment() -> dict[str, str]:
    """For the builds: the tools of this Python first, and times of the last commit, so that the bytes are the same."""
    command = ["git", "log", "-1", "--format=%ct"]
    time = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, **({"SOURCE_DATE_EPOCH": time} if time else {})}


def run(command: Sequence[str | Path]) -> None:
    """Run a command; exits with what it has printed if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}`{' '.join(map(str, command))}` failed with status {done.returncode}")


def build(package: str, output: Path, *, repair: bool = True) -> list[Path]:
    """Build a package; the paths of its files in *output*, which exists.

    :param repair: add the libraries that an extension needs, and name the oldest C library
    """
    with tempfile.TemporaryDirectory(prefix="pyvmm-wheels-") as name:
        work, made = Path(name, "built"), Path(name, "made")
        made.mkdir()
        kinds = ["--wheel"] if package in WITHOUT_SDIST else []
        # No isolation: everything that the builds need is in .venv
        run([sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", work, ROOT / PACKAGES[package]])
        for path in work.iterdir():
            if repair and path.name.endswith("-linux_x86_64.whl"):
                run([sys.executable, "-m", "auditwheel", "repair", "--strip", "--wheel-dir", made, path])
            else:
                path.rename(made / path.name)
        return sorted(_publish(path, output) for path in made.iterdir())


def _publish(path: Path, output: Path) -> Path:
    """Move a file to *output*, where it replaces those of the package that are of its kind."""
    if path.stat().st_size > MOST:
        sys.exit(f"{path.name} has {path.stat().st_size} bytes, more than {MOST}")
    kind = ".whl" if path.suffix == ".whl" else ".tar.gz"
    for old in output.glob(f"{path.name.partition('-')[0]}-*{kind}"):
        old.unlink()
    target = output / path.name
    target.write_bytes(path.read_bytes())
    return target


def fetch_dependencies(output: Path) -> None:
    """Download the wheels of what the packages in *output* depend on; they must be all of them.

    pip gets their paths, since PyPI may have other projects of these names.
    """
    ours = [path for name in PACKAGES for path in output.glob(f"{name.replace('-', '_')}-*.whl")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    run([*pip, "--only-binary", ":all:", "--find-links", output, "--dest", output, *ours])


def main(arguments: Sequence[str]) -> int:
    """Build what is named, or everything; prints the paths."""
    parser = argparse.ArgumentParser("python -m tools.wheels", description="Builds the wheels and sdists.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="where (default: dist)")
    parser.add_argument("--dependencies", action="store_true", help="also download what they depend on, from PyPI")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)} (default: all)")
    options = parser.parse_args(arguments)
    if options.dependencies and options.packages:
        parser.error("--dependencies needs all packages")
    if unknown := set(options.packages) - set(PACKAGES):
        parser.error(f"there is no package {', '.join(sorted(unknown))}")
    options.output.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "tools.man"])
    for package in options.packages or PACKAGES:
        with step(package):
            made = build(package, options.output)
        for path in made:
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if options.dependencies:
        with step("dependencies"):
            fetch_dependencies(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
