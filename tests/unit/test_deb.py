"""What `make deb` builds, installed in a Debian of its own, and removed from there."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import guest as recipes
from tools.deb import WHEELS
from tools.where import ROOT

TOOLS = ("dh", "dh_python3", "dpkg-buildpackage", "lintian", "mmdebstrap")
pytestmark = [
    pytest.mark.long,  # it compiles everything, and makes a Debian: 3 minutes on 2 CPUs
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)), reason="python3 tools/deps.py deb installs what makes packages"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="takes root"),
]
ENTER = """
mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && ip link set lo up
root=$1; shift; exec chroot "$root" "$@"
"""
CHANGING = {"proc", "dev", "sys", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "root/.cache"}
"""What is not the packages': their users' caches, and what the package manager keeps of any package."""
SERVE = "mkdir /var/lib/pyvmm-server && chown pyvmm-server: /var/lib/pyvmm-server && exec setpriv \
--reuid pyvmm-server --regid pyvmm-server --clear-groups env HOME=/var/lib/pyvmm-server \
XDG_DATA_HOME=/var/lib/pyvmm-server pyvmm serve --port {port}"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The packages; lintian finds no error in them."""
    names = [name for name in WHEELS if name != "pyvmm-guest" or recipes.cached_kernel() is not None]
    output = tmp_path_factory.mktemp("packages")
    subprocess.run([sys.executable, "-m", "tools.deb", "--output", output, *names], cwd=ROOT, check=True)
    found = sorted(output.glob("*.deb"))
    assert {path.name.partition("_")[0] for path in found} == set(names)
    return found


@pytest.fixture(scope="module")
def debian(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a Debian with what the packages depend on."""
    root = tmp_path_factory.mktemp("debian") / "root"
    show = ["dpkg-deb", "--show", "--showformat=${Depends}, "]
    depends = "".join(subprocess.check_output([*show, path], text=True) for path in packages)
    names = {re.split("[ :]", each.strip())[0] for each in depends.split(",")} - {"", *WHEELS}
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(sorted(names))}"]
    subprocess.run([*command, "trixie", str(root)], check=True)
    root.parent.chmod(0o755)
    return root


def words_in(root: Path, *words: str) -> list[str]:
    """The command that runs *words* there, with processes and a network of its own."""
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net"]
    return [*namespaces, "sh", "-c", ENTER, "sh", str(root), *words]


def files_in(root: Path) -> set[str]:
    found = set()
    for folder, folders, files in os.walk(root):
        below = os.path.relpath(folder, root)
        folders[:] = [each for each in folders if os.path.normpath(f"{below}/{each}") not in CHANGING]
        found |= {os.path.normpath(f"{below}/{each}") for each in (*folders, *files)}
    return found


@pytest.fixture(scope="module")
def run(debian: Path, packages: list[Path]) -> Iterator[Callable[..., str]]:
    """Runs a command where the packages are installed; in the end they are purged, and nothing is left."""

    def run(*words: str) -> str:
        environment = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(words_in(debian, *words), capture_output=True, text=True, env=environment)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    before = files_in(debian)
    (debian / "packages").mkdir()
    for path in packages:
        shutil.copy(path, debian / "packages")
    run("sh", "-c", "apt-get install --yes --no-install-recommends /packages/*.deb")
    yield run
    run("apt-get", "purge", "--yes", *(path.name.partition("_")[0] for path in packages))
    shutil.rmtree(debian / "packages")
    left = {each for each in files_in(debian) - before if not each.endswith("-")}  # passwd- and others are copies
    assert left == set()
    assert "pyvmm" not in (debian / "etc" / "passwd").read_text()


@pytest.mark.parametrize(
    "command, words",
    [
        ("sh -c 'pyvmm doctor | cat'", "next: "),
        ("pyvmm --version", "pyvmm 0."),
        ("pyvmm-oci --version", "pyvmm-oci version 0."),
        ("pyvmm-poold --help", "usage: pyvmm-poold"),
        ("containerd-shim-pyvmm-v2 -v", "Version:"),
        ("pyvmm image ls", "NAME"),
        ("pyvmm serve --help", "usage: pyvmm serve"),
        ("pyvmm-runsc do --root / -- true", ""),
        ("pyvmm-runsc do --root / -- python3 -c 'print(6 * 7)'", "42\n"),
        ("python3 -c 'import pyvmm_sandbox, vmm; print(vmm.__file__)'", "/usr/lib/python3/dist-packages/vmm/"),
        ("bash -n /usr/share/bash-completion/completions/pyvmm", ""),
        ("id pyvmm-server", "(pyvmm-server)"),
    ],
)
def test_programs_run(run: Callable[..., str], command: str, words: str) -> None:
    assert words in run(*shlex.split(command))


def test_the_server_answers_as_its_own_user(run: Callable[..., str], debian: Path) -> None:
    port = "3900"
    code = f"""
import http.client, subprocess, sys
with subprocess.Popen(["sh", "-c", {SERVE.format(port=port)!r}]) as server:
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", {port})
            connection.request("GET", "/health")
            print(connection.getresponse().status)
            break
        except ConnectionRefusedError:
            if server.poll() is not None:
                sys.exit("it has ended")
    server.terminate()
"""
    assert int(run("python3", "-c", code)) in (http.client.OK, http.client.NO_CONTENT)


def test_units_are_valid_and_disabled(run: Callable[..., str], debian: Path) -> None:
    units = sorted((debian / "usr/lib/systemd/system").glob("pyvmm*.service"))
    assert [unit.name for unit in units] == ["pyvmm-poold.service", "pyvmm-server.service"]
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "verify", "--man=no", f"--root={debian}", *(unit.name for unit in units)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if "pyvmm" in line and "target not found" not in line]
        assert lines == []
    assert not list((debian / "etc/systemd/system").rglob("pyvmm*"))


def test_man_pages_and_completions(run: Callable[..., str], debian: Path) -> None:
    programs = {path.name for path in (debian / "usr/bin").iterdir() if "pyvmm" in path.name}
    assert programs >= {"pyvmm", "pyvmm-oci", "pyvmm-poold", "pyvmm-runsc", "pyvmm-server"}
    listed = "dpkg -L pyvmm pyvmm-server"
    pages = {path.rpartition("/")[2].removesuffix(".1.gz") for path in run(*listed.split()).split() if "/man1/" in path}
    assert programs <= pages
    for path in ("bash-completion/completions/pyvmm", "zsh/vendor-completions/_pyvmm"):
        text = (debian / "usr/share" / path).read_text()
        assert "_shtab_pyvmm_snapshot" in text and "_shtab_pyvmm_firecracker" not in text
