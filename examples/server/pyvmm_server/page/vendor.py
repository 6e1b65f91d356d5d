"""xterm.js, the terminal of the page: from npm's archive, when the package is built.

``python -m pyvmm_server.page.vendor`` puts the files beside those of the page, unless they are there.  Archives stay in
the cache, and what they contain is what was chosen here: their hashes are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("static") / "vendor"
REGISTRY = "https://registry.npmjs.org"
"""``NPM_CONFIG_REGISTRY`` names another."""
MOST = 16 << 20
"""Bytes of an archive."""
_ANSWER_S = 60.0


class VendorError(Exception):
    """An archive is not available."""


class Package(NamedTuple):
    """A package of npm.

    :ivar integrity: as npm lists it
    :ivar files: of the archive, and their names here
    """

    name: str
    version: str
    integrity: str
    files: dict[str, str]

    @property
    def archive(self) -> str:
        """The name of its archive."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"


PACKAGES = (
    Package(
        "@xterm/xterm",
        "6.0.0",
        "sha512-TQwDdQGtwwDt+2cgKDLn0IRaSxYu1tSUjgKarSDkUM0ZNiSRXFpjxEsvc/Zgc5kq5omJ+V0a8/kIM2WD3sMOYg==",
        {"lib/xterm.mjs": "xterm.mjs", "css/xterm.css": "xterm.css", "LICENSE": "xterm-LICENSE.txt"},
    ),
    Package(
        "@xterm/addon-fit",
        "0.11.0",
        "sha512-jYcgT6xtVYhnhgxh3QgYDnnNMYTcf8ElbxxFzX0IZo+vabQqSPAjC3c1wJrKB5E19VwQei89QCiZZP86DCPF7g==",
        {"lib/addon-fit.mjs": "addon-fit.mjs", "LICENSE": "addon-fit-LICENSE.txt"},
    ),
)


def fetched(package: Package) -> bytes:
    """The archive of a package, from the cache or from npm.

    :raises VendorError: npm cannot be reached, or has another one
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    kept = Path(base, "pyvmm", "npm", package.archive)
    data: bytes
    try:
        data = kept.read_bytes()
        if _is_whole(package, data):
            return data
    except OSError:
        pass  # not there yet
    registry = (os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY).rstrip("/")
    url = f"{registry}/{package.name}/-/{package.archive}"
    print(f"fetching {package.name} {package.version}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            data = answer.read(MOST)
    except (OSError, ValueError) as error:
        raise VendorError(f"{url} cannot be fetched: {error}") from error
    if not _is_whole(package, data):
        raise VendorError(f"{url} is not what was chosen: its hash is another one")
    kept.parent.mkdir(parents=True, exist_ok=True)
    _write(kept, data)
    return data


def _is_whole(package: Package, data: bytes) -> bool:
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    return hmac.compare_digest(found, package.integrity)


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole, also beside another process that does."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def content(package: Package, name: str) -> bytes:
    """A file of a package.

    :raises VendorError: see :func:`fetched`
    """
    with tarfile.open(fileobj=io.BytesIO(fetched(package))) as archive:
        found = archive.extractfile(f"package/{name}")
        assert found is not None
        data: bytes = found.read()
        return data


def install(folder: Path = FOLDER) -> None:
    """Write the files of all packages, unless they are there.

    :raises VendorError: see :func:`fetched`
    :raises OSError: they cannot be written
    """
    listing = "".join(f"{each.name} {each.version} {each.integrity}\n" for each in PACKAGES)
    mark = folder / "versions.txt"
    if mark.exists() and mark.read_text() == listing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        for name, target in package.files.items():
            _write(folder / target, content(package, name))
    _write(mark, listing.encode())


def main() -> int:
    """Install; returns the exit status."""
    try:
        install()
    except (VendorError, OSError) as error:
        print(f"error: {error}\n  hint: check the network; once fetched, archives stay in the cache", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
