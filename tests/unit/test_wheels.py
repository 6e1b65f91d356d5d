"""What `make wheels` builds, installed in an environment of its own from which no compiler is found."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from tools import guest as recipes
from tools.wheels import PACKAGES, WITHOUT_SDIST, fetch_dependencies
from tools.where import ROOT

pytest.importorskip("auditwheel", reason="python3 tools/deps.py wheels installs what builds wheels")
pytestmark = pytest.mark.long  # it compiles everything, from the sdists: a minute and a half on 2 CPUs
SHELL = ("sh", "readlink", "dirname")
"""What the scripts of the packages run."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for wheels and sdists."""
    return tmp_path_factory.mktemp("index")


def build(index: Path, *packages: str) -> None:
    """Build those that the folder does not have yet."""
    missing = [package for package in packages if not list(index.glob(f"{package.replace('-', '_')}-*.whl"))]
    if "pyvmm-guest" in missing and recipes.cached_kernel() is None:
        pytest.skip("the guest kernel is not built: make guest-kernel")
    if missing:
        command = [sys.executable, "-m", "tools.wheels", "--output", str(index), *missing]
        subprocess.run(command, cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def installed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with pyvmm-sandbox and all that this installs."""
    build(index, *PACKAGES)
    fetch_dependencies(index)
    folder = tmp_path_factory.mktemp("installed")
    tools = folder / "tools"
    tools.mkdir()
    for name in SHELL:
        (tools / name).symlink_to(shutil.which(name) or name)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--isolated", "install", "--quiet"]
    command = [*pip, "--no-index", "--find-links", str(index), "pyvmm-sandbox"]
    subprocess.run(command, check=True, env={"PATH": str(tools), "HOME": str(folder)})
    return venv / "bin"


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    folder = installed.parents[1]
    return subprocess.run(
        [installed / command[0], *command[1:]],
        env={"PATH": str(folder / "tools"), "HOME": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_is_for_all_pythons_and_names_the_oldest_c_library(index: Path, package: str) -> None:
    build(index, package)
    (wheel,) = index.glob(f"{package.replace('-', '_')}-*.whl")
    assert len(list(index.glob(f"{package.replace('-', '_')}-*.tar.gz"))) == (package not in WITHOUT_SDIST)
    _, _, tag, abi, platforms = wheel.stem.split("-")
    assert (tag, abi) == (("cp311", "abi3") if package == "pyvmm" else ("py3", "none"))
    assert "manylinux" in platforms and wheel.stat().st_size < 20 << 20
    named = re.search(r"manylinux_2_(\d+)", platforms)
    newest = int(named[1]) if named else 17  # manylinux2014
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
        for name in archive.namelist():
            with archive.open(name) as file:
                if file.read(4) == b"\x7fELF":
                    assert needed(ELFFile(file)) <= newest, name


def test_the_extension_uses_only_the_stable_interface_of_python(index: Path) -> None:
    """That of 3.11, and nothing that a later one has added."""
    build(index, "pyvmm")
    (wheel,) = index.glob("pyvmm-*.whl")
    command = [sys.executable, "-m", "abi3audit", "--strict", "--report", str(wheel)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    ((extension,),) = (each["wheel"] for each in report["specs"].values())
    found = extension["result"]
    assert found["is_abi3"] and found["is_abi3_baseline_compatible"] and found["baseline"] == "3.11"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mmdebstrap"), reason="takes root and mmdebstrap")
@pytest.mark.parametrize("suite, version", [("bookworm", "3.11"), ("noble", "3.12"), ("forky", "3.14")])
def test_the_same_wheels_run_on_other_pythons(index: Path, tmp_path: Path, suite: str, version: str) -> None:
    """Those of Debian 12 and 14, and of Ubuntu 24.04."""
    if suite == "noble" and not os.path.exists("/usr/share/keyrings/ubuntu-archive-keyring.gpg"):
        pytest.skip("apt-get install ubuntu-archive-keyring")
    names = ("pyvmm", "pyvmm-kata", "pyvmm-sentry")
    build(index, *names)
    root = tmp_path / "root"
    # A mirror may be older than its signature is valid
    make = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until false"]
    subprocess.run(
        [
            *make,
            "--components=main,universe" if suite == "noble" else "--components=main",
            "--include=python3-venv",
            suite,
            str(root),
        ],
        check=True,
    )
    wheels = root / "wheels"
    wheels.mkdir()
    for each in names:
        (found,) = index.glob(f"{each.replace('-', '_')}-*.whl")
        shutil.copy(found, wheels)
    platforms = [f"--platform={name}_x86_64" for name in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--only-binary=:all:"]
    needed = ["cbor2", "cffi", "construct", "pyelftools", "zstandard"]
    subprocess.run([*pip, f"--python-version={version}", *platforms, "--dest", wheels, *needed], check=True)
    script = """
    python3 -m venv /venv && cd /venv/bin
    ./pip install --quiet --no-index --find-links /wheels pyvmm-kata pyvmm-sentry
    ./python -V && ./pyvmm-oci --version
    ./pyvmm doctor | grep next: # its status is about KVM
    ./pyvmm-runsc do --root / -- python3 -c 'print(6 * 7)'
    """
    enter = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" sh -ec "$1"'
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, str(root), script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin", "HOME": "/root"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Python {version}.") and done.stdout.endswith("\n42\n")


def needed(program: ELFFile) -> int:
    """The minor version of glibc 2 that a program or a library needs; 0: none."""
    sections = [section for section in program.iter_sections() if isinstance(section, GNUVerNeedSection)]
    names = [each.name for section in sections for _, versions in section.iter_versions() for each in versions]
    return max((int(name.split(".")[1]) for name in names if name.startswith("GLIBC_2.")), default=0)


@pytest.mark.parametrize(
    "command, words",
    [
        ("pyvmm --version", "pyvmm 0."),
        ("pyvmm doctor", "KVM is "),
        ("pyvmm run --help", "usage: pyvmm run"),
        ("pyvmm image ls", "NAME"),
        ("pyvmm-oci --version", "pyvmm-oci version 0."),
        ("pyvmm-poold --help", "usage: pyvmm-poold"),
        ("containerd-shim-pyvmm-v2 -v", "Version:"),
        ("pyvmm-runsc --rootless features", '"ociVersionMin"'),
        ("pyvmm-runsc help syscalls read write", "write(fd, buf, count)  answered"),
        ("pyvmm-runsc do --platform ptrace --root / /bin/echo hello", "hello\n"),
        ("python -c 'import pyvmm_sandbox.guest; print(open(pyvmm_sandbox.guest.program(), \"rb\").read(4))'", "ELF"),
    ],
)
def test_programs_start(installed: Path, command: str, words: str) -> None:
    done = run(installed, *shlex.split(command))
    assert words in done.stdout, done.stderr


def test_programs_have_man_pages(installed: Path) -> None:
    pages = {path.stem: path.read_text() for path in (installed.parent / "share" / "man" / "man1").glob("*.1")}
    assert pages.keys() >= {"pyvmm", "pyvmm-boot", "pyvmm-run", "pyvmm-oci", "pyvmm-poold", "pyvmm-runsc"}
    assert {name for name in os.listdir(installed) if name.startswith(("pyvmm", "containerd"))} <= pages.keys()
    assert "\n\\fB\\-\\-rootfs\\fR \\fIPATH\\fR\n" in pages["pyvmm-boot"]
    for text in pages.values():
        assert text.startswith(".TH ") and text.count("\n.nf\n") == text.count("\n.fi\n")


def test_a_boot_without_a_kernel_uses_that_of_the_package(installed: Path) -> None:
    done = run(installed, "pyvmm", "boot", "--timeout", "0.1")
    named = re.search(r"^pyvmm: no --kernel: .* (/.*)$", done.stderr, re.MULTILINE)
    assert named is not None, done.stderr
    with open(named[1], "rb") as file:
        assert ELFFile(file).get_machine_arch() == "x64"
    folder = Path(named[1]).parent / "sources"
    rows = [line.split() for line in (folder / "packages").read_text().splitlines()]
    assert {row[2] for row in rows if row[:1] == ["kata.erofs"]} >= {"crun", "glibc"}
    assert os.path.exists(folder / "recipe" / "guest-kernel" / "build.py")


def test_defaults_of_the_runtime_are_files_of_the_package(installed: Path) -> None:
    code = "from pyvmm_kata.bundle.settings import Settings, load; print(*load()[:2], *Settings()[:2], sep='\\n')"
    *paths, kernel, image = run(installed, "python", "-c", code).stdout.split()
    for path, default in zip(paths, (kernel, image), strict=True):
        assert os.path.getsize(path) > 1 << 20
        assert "pyvmm_guest" in path or path == default
