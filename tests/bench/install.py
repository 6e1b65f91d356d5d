"""An ordinary installation of pyvmm and pyvmm-kata to measure: an environment of its own, with nothing else in it.

The checkout's own environment has test tools in it, and path hooks that they bring; what is measured is what
`pip install` gives, byte code included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cbor2", "cffi", "pycparser", "construct", "elftools", "pyroute2", "zstandard")
"""What the two need at run time, with the extension module beside cffi."""


class InstallError(Exception):
    """The installation cannot be made; the message says what to do."""


def venv_base() -> str:
    """The interpreter that the checkout's environment was made from."""
    return os.path.realpath(Path(sys.prefix) / "bin" / "python3")


def site_packages(prefix: Path) -> Path:
    """Where the environment `prefix` keeps packages."""
    return prefix / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"


def install(prefix: Path) -> Path:
    """Make the environment `prefix` anew and return the path of its `pyvmm`.

    Raises InstallError when this does not run in an environment with the extension built.
    """
    source = site_packages(Path(sys.prefix))
    extensions = sorted(source.glob("_cffi_backend*.so"))
    if sys.prefix == sys.base_prefix or not extensions:
        raise InstallError("run this with the checkout's environment: .venv/bin/python -m tests.bench")
    if not list((ROOT / "vmm/native").glob("_native*.so")):
        raise InstallError("the extension is not built: run .venv/bin/python vmm/native/build.py")
    shutil.rmtree(prefix, ignore_errors=True)
    target = site_packages(prefix)
    target.mkdir(parents=True)
    (prefix / "bin").mkdir()
    base = venv_base()
    for name in ("python", "python3"):
        (prefix / "bin" / name).symlink_to(base)
    version = "{}.{}.{}".format(*sys.version_info)
    (prefix / "pyvenv.cfg").write_text(
        f"home = {os.path.dirname(base)}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    junk = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.o")
    for package in PACKAGES:
        if (source / package).is_dir():
            shutil.copytree(source / package, target / package, ignore=junk)
    for extension in extensions:
        shutil.copy2(extension, target)
    shutil.copytree(ROOT / "vmm", target / "vmm", ignore=junk)
    shutil.copytree(ROOT / "examples/kata/pyvmm_kata", target / "pyvmm_kata", ignore=junk)
    kata = "examples/kata/bin"
    for program in ("bin/pyvmm", f"{kata}/pyvmm-oci", f"{kata}/containerd-shim-pyvmm-v2"):
        shutil.copy2(ROOT / program, prefix / "bin")
    done = subprocess.run([str(prefix / "bin/python3"), "-m", "compileall", "-q", str(target)])
    if done.returncode:
        raise InstallError(f"{target}: some module does not compile")
    return prefix / "bin/pyvmm"
