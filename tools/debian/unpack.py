"""Unpacks the wheels into the folders of the binary packages, as Debian's Python finds them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

WHEELS = {
    "pyvmm": ("pyvmm", "pyvmm_kata", "pyvmm_sentry", "pyvmm_sandbox"),
    "pyvmm-server": ("pyvmm_server",),
    "pyvmm-guest": ("pyvmm_guest",),
}
MODULES = "usr/lib/python3/dist-packages"
PLACES = {"scripts": "usr/bin", "data": "usr", "purelib": MODULES, "platlib": MODULES}
SCRIPT = """\
#!/usr/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""


def unpack(wheel: Path, root: Path) -> None:
    """Unpack a wheel below *root* (https://packaging.python.org/en/latest/specifications/binary-distribution-format/)."""
    with zipfile.ZipFile(wheel) as archive:
        for each in archive.infolist():
            found = re.fullmatch(r"[^/]+\.data/(\w+)/(.+)", each.filename)
            place = f"{PLACES[found[1]]}/{found[2]}" if found else f"{MODULES}/{each.filename}"
            if each.is_dir() or re.search(r"\.dist-info/(RECORD|licenses/|sboms/)", place):
                continue
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(each))
            executable = each.external_attr >> 16 & stat.S_IXUSR or place.startswith("usr/bin/")
            target.chmod(0o755 if executable else 0o644)


def add_scripts(root: Path) -> None:
    """Write the programs that entry points name."""
    for path in (root / MODULES).glob("*.dist-info/entry_points.txt"):
        points = configparser.ConfigParser(delimiters="=")
        points.read(path)
        for name, value in points.items("console_scripts") if points.has_section("console_scripts") else ():
            module, _, function = value.partition(":")
            target = root / "usr/bin" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(SCRIPT.format(module=module, function=function))
            target.chmod(0o755)


for package, names in WHEELS.items():
    if not os.path.exists(f"debian/{package}.wanted"):
        continue
    for name in names:
        (found,) = Path("wheels").glob(f"{name}-*.whl")
        unpack(found, Path("debian", package))
    add_scripts(Path("debian", package))
if os.path.exists("files"):  # completion scripts
    shutil.copytree("files", "debian/pyvmm", dirs_exist_ok=True)
