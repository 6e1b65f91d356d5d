"""A root with the host's apt and dpkg, an empty database of packages, and two repositories with small packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.sentry import small_root

PROGRAMS = (
    *("/usr/bin/apt-get", "/usr/bin/dpkg", "/usr/bin/dpkg-deb", "/usr/bin/dpkg-query", "/usr/bin/dpkg-split"),
    *("/usr/bin/dpkg-divert", "/usr/bin/dpkg-statoverride", "/usr/bin/update-alternatives", "/usr/bin/tar"),
    *("/usr/bin/rm", "/usr/bin/ls", "/usr/bin/find", "/usr/bin/sed", "/usr/bin/id", "/usr/bin/diff"),
    *("/usr/sbin/ldconfig", "/usr/sbin/start-stop-daemon"),
    *("/usr/lib/apt/methods/copy", "/usr/lib/apt/methods/file", "/usr/lib/apt/methods/http"),
    *("/usr/lib/apt/methods/store", "/usr/lib/x86_64-linux-gnu/libnss_files.so.2"),
    *("/usr/share/dpkg/cputable", "/usr/share/dpkg/ostable", "/usr/share/dpkg/tupletable"),
)
FOLDERS = (
    *("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/dpkg/dpkg.cfg.d"),
    *("etc/alternatives", "root", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"),
    *("var/lib/dpkg/alternatives", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "var/lib/dpkg/updates"),
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nadm:x:4:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "var/lib/dpkg/status": "",
    "var/lib/dpkg/available": "",
}
CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: a small package
"""
SCRIPT = '#!/bin/sh\necho {} "$@"\n'
"""Of the maintainer, and the program in the package."""


def _package(name: str, version: str, depends: str, work: Path, repository: Path) -> None:
    """Build a package with a program, a configuration file, links, many files, and the maintainer's scripts."""
    tree = work / f"{name}_{version}"
    control, shared = tree / "DEBIAN", tree / f"usr/share/{name}"
    for folder in (control, shared, tree / f"etc/{name}", tree / "usr/bin"):
        folder.mkdir(parents=True)
    text = CONTROL.format(name=name, version=version) + (f"Depends: {depends}\n" if depends else "")
    (control / "control").write_text(text)
    (control / "conffiles").write_text(f"/etc/{name}/conf\n")
    (tree / f"etc/{name}/conf").write_text(f"version {version}\n")
    (shared / "data").write_text(f"{version}\n" * 10_000)
    os.link(shared / "data", shared / "hard")
    (shared / "soft").symlink_to("data")
    for number in range(50):
        (shared / str(number)).write_text(f"{number} of {version}\n")
    scripts = {control / each: f"{name} {each}" for each in ("preinst", "postinst", "prerm", "postrm")}
    for path, words in {**scripts, tree / f"usr/bin/{name}": f"{name} {version}"}.items():
        path.write_text(SCRIPT.format(words))
        path.chmod(0o755)
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    command = ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(repository / f"{tree.name}_all.deb")]
    subprocess.run(command, check=True, capture_output=True)


def _index(repository: Path) -> None:
    """Write the index of a repository, which nobody has signed."""
    rows = []
    for path in sorted(repository.iterdir()):
        field = subprocess.run(["dpkg-deb", "-f", str(path)], check=True, capture_output=True, text=True).stdout
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        rows.append(f"{field}Filename: ./{path.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    index = "\n".join(rows).encode()
    (repository / "Packages").write_bytes(index)
    line = f" {hashlib.sha256(index).hexdigest()} {len(index)} Packages"
    (repository / "Release").write_text(f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{line}\n")


def make(root: Path, work: Path) -> Path:
    """Fill a folder; returns it."""
    small_root.start(root)
    for path in PROGRAMS:
        small_root.copy(root, path)
    shutil.copy("/bin/busybox", root / "usr/bin")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    (root / "tmp").chmod(0o1777)
    for version in ("1.0", "2.0"):
        repository = root / "srv" / version
        repository.mkdir(parents=True)
        _package("tiny", version, "", work, repository)
        _package("tiny-more", version, f"tiny (>= {version})", work, repository)
        _index(repository)
    programs = [
        *(root / "usr/bin").iterdir(),
        *(root / "usr/sbin").iterdir(),
        *(root / "usr/lib/apt/methods").iterdir(),
    ]
    small_root.add_libraries(root, programs)
    return root
