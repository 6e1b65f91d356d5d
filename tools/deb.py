"""`python -m tools.deb [--output DIR] [--wheels DIR] [PACKAGE...]`: Debian packages of the wheels.

debhelper packs what the wheels contain. So nothing is compiled twice, and debhelper and dh-python write what a package
needs besides its files: maintainer scripts for systemd, users and bytecode, dependencies on libraries, checksums.
`dpkg-deb` alone would need these by hand; a build by pybuild would need each package's build system and recipes.

The extension stays linked to Debian's liburing: its wheel is not one of `make wheels`, which contains a copy.
"""

from __future__ import annotations

import argparse
import email.utils
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools import wheels
from tools.step import step
from tools.where import ROOT
from vmm import __version__

WHEELS = {
    "pyvmm": ("pyvmm", "pyvmm-kata", "pyvmm-sentry", "pyvmm-sandbox"),
    "pyvmm-server": ("pyvmm-server",),
    "pyvmm-guest": ("pyvmm-guest",),
}
"""What each binary package contains; those of tools/debian/unpack.py."""
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/pyvmm",
    "zsh": "usr/share/zsh/vendor-completions/_pyvmm",
    "fish": "usr/share/fish/vendor_completions.d/pyvmm.fish",
}
NOT_PACKED = {"firecracker", "mcp"}
"""Commands of packages that have no Debian package."""


def write_completions(root: Path) -> None:
    """The completion scripts of the commands that are packed."""
    import shtab

    from vmm.cli.completion import script
    from vmm.cli.plugins import external_commands

    for shell, name in COMPLETIONS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(shtab, shell, external_commands().keys() - NOT_PACKED))


def write_control(debian: Path, packages: Sequence[str]) -> None:
    """Keep only *packages*, and add the changelog."""
    source, *binaries = (debian / "control").read_text().split("\n\n")
    for name in packages:
        (debian / f"{name}.wanted").touch()
    for path in debian.iterdir():
        if any(path.name.startswith(f"{name}.") for name in WHEELS.keys() - set(packages)):
            path.unlink()
    date = email.utils.formatdate(int(wheels.environment().get("SOURCE_DATE_EPOCH", "0")))
    if address := os.environ.get("DEBEMAIL"):
        named = f"Maintainer: {os.environ.get('DEBFULLNAME') or address} <{address}>"
        source = re.sub("^Maintainer: .*$", named, source, flags=re.MULTILINE)
    maintainer = re.search("^Maintainer: (.*)$", source, re.MULTILINE)
    assert maintainer
    head = f"pyvmm ({__version__}) unstable; urgency=medium"
    kept = [each for each in binaries if any(f"Package: {name}\n" in each for name in packages)]
    (debian / "control").write_text("\n\n".join([source, *kept]))
    (debian / "changelog").write_text(f"{head}\n\n  * Packed from the wheels.\n\n -- {maintainer[1]}  {date}\n")


def pack(built: Path, packages: Sequence[str], output: Path) -> list[Path]:
    """Make the packages from the wheels in *built*; returns their paths in *output*."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-deb-") as name:
        source = Path(name, "source")
        shutil.copytree(ROOT / "tools" / "debian", source / "debian")
        write_control(source / "debian", packages)
        (source / "wheels").mkdir()
        for package in packages:
            for each in WHEELS[package]:
                (wheel,) = built.glob(f"{each.replace('-', '_')}-*.whl")
                shutil.copy(wheel, source / "wheels")
        if "pyvmm" in packages:
            write_completions(source / "files")
        wheels.run(["env", "-C", source, "dpkg-buildpackage", "--build=binary", "--no-sign"])
        return sorted(Path(shutil.copy(path, output)) for path in Path(name).glob("*.deb"))


def main(arguments: Sequence[str]) -> int:
    """Build what is named, or everything; prints the paths."""
    parser = argparse.ArgumentParser("python -m tools.deb", description="Builds Debian packages.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="where (default: dist)")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="pack these wheels (default: build them)")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(WHEELS)} (default: all)")
    options = parser.parse_args(arguments)
    packages = options.packages or list(WHEELS)
    if unknown := set(packages) - WHEELS.keys():
        parser.error(f"there is no package {', '.join(sorted(unknown))}")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pyvmm-deb-wheels-") as name:
        built = options.wheels or Path(name)
        if not options.wheels:
            wheels.run([sys.executable, "-m", "tools.man"])
            for each in (wheel for package in packages for wheel in WHEELS[package]):
                with step(f"wheel of {each}"):
                    wheels.build(each, built, repair=False)
        with step("Debian packages"):
            made = pack(built, packages, options.output)
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if shutil.which("lintian"):
        return subprocess.run(["lintian", "--fail-on", "error", *made]).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
