"""Volumes of containers whose root is an overlay, as podman and containerd make it by themselves, where users put them.

A program makes and renames something beside each mount point before it writes into it.  Then the host is looked at, and
compared with what crun left there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import filesystem
from tests.guest.kata_podman import Podman, install_program, tree
from tests.guest.kata_tools import make_rootfs
from tests.kata.containerd import IMAGE, Containerd, need, write_image
from tools import guest as recipes

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")

FOLDERS = {
    "postgres": "/var/lib/postgresql/data",
    "account": "/var/run/secrets/kubernetes.io/serviceaccount",
    "outer": "/v",
    "inner": "/v/sub",
    "lacking": "/opt/the/image/lacks/this",
    "here": "/usr/share/here",
}
FILES = {"hosts": "/etc/hosts", "x": "/run/x", "conf": "/etc/deep/down/app.conf", "there": "/usr/share/there.conf"}
READ_ONLY = {"ro-folder": "/srv/ro", "ro-file": "/srv/ro.conf"}

BESIDE = """
beside() {
    at=${1%/*}; n=${1##*/}
    touch "$at/new-$n" && mkdir "$at/dir-$n" && mv "$at/new-$n" "$at/moved-$n" && ln "$at/moved-$n" "$at/linked-$n" &&
    mv "$at/dir-$n" "$at/renamed-$n" && chmod 711 "$at/renamed-$n" && rm "$at/linked-$n" || echo "beside $1: $?"
}
"""


FILE_SYSTEMS = (pytest.param("tmpfs", marks=pytest.mark.long), "ext4")
"""What storage and volumes are on.  On tmpfs the same takes as long again: with `make test-long-guest`."""


def write_script() -> str:
    lines = [BESIDE]
    for name, path in {**FOLDERS, **FILES, **READ_ONLY}.items():
        lines.append(f"beside {path}")
        if name in FOLDERS:
            lines.append(f"echo {name} >{path}/saved; mkdir -p {path}/sub2; echo deep >{path}/sub2/file")
        elif name in FILES:
            lines.append(f"echo {name} >>{path}")
        elif name == "ro-file":
            lines.append(f"(echo no >>{path}) 2>/dev/null && echo {name} is written to; cat {path}")
        else:
            lines.append(f"(echo no >{path}/no) 2>/dev/null && echo {name} is written to; cat {path}/kept")
    # Once more, when everything has been looked up, copied up and perhaps forgotten
    lines.append("sleep 2; ls -lR /usr /var /etc /opt /srv >/dev/null")
    lines += [f"echo again >>{path}/saved" for path in FOLDERS.values()]
    lines += [f"echo again >>{path}" for path in FILES.values()]
    return "\n".join(lines)


def make_volumes(top: Path) -> list[str]:
    """The host's side; podman's options."""
    options = []
    for name, path in FOLDERS.items():
        (top / name).mkdir(parents=True)
        options += ["-v", f"{top}/{name}:{path}"]
    for name, path in FILES.items():
        (top / name).write_text("127.0.0.1 localhost\n")
        options += ["-v", f"{top}/{name}:{path}"]
    (top / "ro-folder").mkdir()
    (top / "ro-folder/kept").write_text("kept folder\n")
    (top / "ro-file").write_text("kept file\n")
    return [*options, *(word for name, path in READ_ONLY.items() for word in ("-v", f"{top}/{name}:{path}:ro"))]


def make_image(path: Path) -> Path:
    """With some of the mount points, and files beside them that only this layer has."""
    make_rootfs(path)
    for name in ("var/lib/postgresql/data", "usr/share/here", "usr/lib", "srv", "w/low", "w/sub", "w/vol"):
        (path / name).mkdir(parents=True)
    (path / "var/run").symlink_to("/run")
    (path / "etc/hosts").write_text("of the image\n")
    (path / "usr/share/there.conf").write_text("of the image\n")
    (path / "w/sub/low").write_bytes(b"lower layer " * 100)
    (path / "w/a").write_bytes(b"lower layer " * 1000)
    os.link(path / "w/a", path / "w/low-link")
    os.link(path / "w/a", path / "w/sub/low-link")
    (path / "w/low/b").write_bytes(b"b" * 5000)
    return path


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def podman(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Its storage and its volumes are on such a file system."""
    folder = tmp_path_factory.mktemp(f"podman-{request.param}")
    with filesystem(request.param, folder) as storage:
        made = Podman(folder, storage)
        made.add_image("image", make_image(folder / "image"))
        yield made
        made.close()


def run_both(podman: Podman, options: list[str], name: str, volumes: Path, *command: str) -> list[tuple[object, ...]]:
    """What each runtime printed and left on the host: output, status, volumes, the container's own files."""
    results: list[tuple[object, ...]] = []
    for runtime in ("", "crun"):
        container = f"{name}-{runtime or 'ours'}"
        made = make_volumes(volumes / container)
        arguments = ["run", "--name", container, "--network", "none", *options, *made, "image", *command]
        done = podman.run(*arguments, runtime=runtime)
        with podman.files_of(container) as files:
            left = {path: words for path, words in tree(files).items() if path not in ("etc/mtab", "run/.containerenv")}
        results.append((done.stdout, done.stderr, done.returncode, tree(volumes / container), left))
        podman.check("rm", container, runtime=runtime)
    return results


def compare(ours: tuple[object, ...], theirs: tuple[object, ...]) -> None:
    for what, one, other in zip(("output", "errors", "status", "volumes", "layer"), ours, theirs, strict=True):
        if isinstance(one, dict) and isinstance(other, dict):
            different = {key: (one.get(key), other.get(key)) for key in one | other if one.get(key) != other.get(key)}
            assert not different, f"{what}: ours, crun's"
        assert one == other, what


@pytest.mark.parametrize("options", [[], pytest.param(["--init"], marks=pytest.mark.long)], ids=["", "init"])
def test_podman_volumes(podman: Podman, options: list[str]) -> None:
    volumes = podman.storage / f"volumes-{len(options)}"
    ours, theirs = run_both(podman, options, f"v{len(options)}", volumes, "sh", "-c", write_script())
    assert ours[:3] == ("kept folder\nkept file\n", "", 0)
    made = volumes / f"v{len(options)}-ours"
    for name in FOLDERS:
        assert (made / name / "saved").read_text() == f"{name}\nagain\n"
        assert (made / name / "sub2/file").read_text() == "deep\n"
    for name in FILES:
        assert (made / name).read_text() == f"127.0.0.1 localhost\n{name}\nagain\n"
    compare(ours, theirs)


@pytest.mark.long  # test_podman_volumes has what the next container finds
def test_a_database_that_is_started_again(podman: Podman) -> None:
    """One container, twice: what it wrote the first time is there."""
    data = podman.storage / "again"
    data.mkdir()
    data_of = "/var/lib/postgresql/data"
    script = f"touch {data_of}/../lock.$$; echo started >>{data_of}/log; wc -l <{data_of}/log"
    options = ["--network", "none", "-v", f"{data}:{data_of}"]
    assert podman.check("run", "--name", "db", *options, "image", "sh", "-c", script) == "1\n"
    assert podman.check("start", "--attach", "db") == "2\n"
    podman.check("rm", "db")
    assert (data / "log").read_text() == "started\nstarted\n"


def churn(podman: Podman, count: int, seed: int) -> None:
    """The same random operations around and in volumes, under pyvmm-oci and under crun."""
    print(f"fs_churn: seed {seed}, {count} operations")
    name = f"churn{seed}"
    program = install_program("fs_churn", podman.folder)
    volumes = podman.storage / name
    results = []
    for runtime in ("", "crun"):
        container = f"{name}-{runtime or 'ours'}"
        top = volumes / container
        for each in ("vol", "deep", "new"):
            (top / each).mkdir(parents=True)
        (top / "file").write_text("volume\n")
        options = [
            "-v", f"{program}:/fs_churn:ro", "-v", f"{top}/vol:/w/vol", "-v", f"{top}/deep:/w/sub/vol",
            "-v", f"{top}/new:/w/new/vol", "-v", f"{top}/file:/w/low/vol",
        ]  # fmt: skip
        roots = ["/w", "/w/sub", "/w/vol", "/w/low", "/w/new", "/w/new/vol", "/w/sub/vol"]
        command = ["/fs_churn", str(seed), str(count), *roots]
        done = podman.run("run", "--name", container, "--network", "none", *options, "image", *command, runtime=runtime)
        with podman.files_of(container) as files:
            results.append((done.stdout.splitlines(), done.stderr, done.returncode, tree(top), tree(files / "w")))
        podman.check("rm", container, runtime=runtime)
    ours, theirs = results
    assert theirs[2] == 0, theirs[1]
    assert len(theirs[0]) == count
    for number, (one, other) in enumerate(zip(ours[0], theirs[0], strict=False)):
        if one != other:
            before = "\n".join(theirs[0][max(number - 60, 0) : number])
            pytest.fail(f"seed {seed}: ours: {one}\ncrun: {other}\nbefore that:\n{before}")
    compare(ours, theirs)


@pytest.mark.long  # a minute for each root; tests/guest/test_integrity.py has shares
def test_random_operations(podman: Podman) -> None:
    seed = int(os.environ.get("PYVMM_TEST_SEED", "0")) or secrets.randbelow(1 << 31) + 1
    churn(podman, 500, seed)


@pytest.mark.long
@pytest.mark.parametrize("number", range(5))
def test_many_random_operations(podman: Podman, number: int) -> None:
    seed = int(os.environ.get("PYVMM_TEST_SEED", "0")) or secrets.randbelow(1 << 31) + 1
    churn(podman, 1000, seed + number)


def test_read_only_volumes_lose_nothing(podman: Podman) -> None:
    volume = podman.storage / "ro"
    volume.mkdir()
    (volume / "file").write_text("kept\n")
    for _ in range(int(os.environ.get("PYVMM_TEST_CYCLES", "1"))):
        script = "cat /data/file; touch /data/new || exit 3"
        done = podman.run("run", "--rm", "--network", "none", "-v", f"{volume}:/data:ro", "box", "sh", "-c", script)
        assert (done.returncode, done.stdout) == (3, "kept\n"), done.stderr


# -- containerd ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctv") as name, filesystem(request.param, Path(name)) as where:
        folder = where / "c"
        folder.mkdir()
        settings = Path(name) / "kata.toml"
        settings.write_text(f'kernel = "{recipes.kernel()}"\nimage = "{recipes.kata_image()}"\n')
        os.environ["PYVMM_KATA_CONFIG"] = str(settings)
        made = Containerd(folder, "io.containerd.pyvmm.v2", str(Path(sys.executable).parent))
        try:
            write_image(folder / "image.tar", applets=("touch", "mkdir", "mv", "ln", "rm", "chmod"))
            made.start()
            made.import_image()
            yield made
        finally:
            made.stop()
            del os.environ["PYVMM_KATA_CONFIG"]


@pytest.mark.long  # half a minute; podman has volumes, and pods of containerd
def test_containerd_volumes(daemon: Containerd) -> None:
    """Its snapshotter is overlayfs unless it is told otherwise."""
    volumes = daemon.folder / "volumes"
    make_volumes(volumes)
    mounts = [
        word
        for name, path in {**FOLDERS, **FILES, **READ_ONLY}.items()
        for word in (
            "--mount",
            f"type=bind,src={volumes}/{name},dst={path},options=rbind:{'ro' if name in READ_ONLY else 'rw'}",
        )
    ]
    script = write_script()
    flags = ["run", "--rm", *mounts, "--runtime", daemon.runtime, IMAGE, "v1", "sh", "-c", script]
    done = daemon.ctr(*flags)
    assert done.stdout == "kept folder\nkept file\n", done.stderr + daemon.log()
    for name in FOLDERS:
        assert (volumes / name / "saved").read_text() == f"{name}\nagain\n"
    for name in FILES:
        assert (volumes / name).read_text() == f"127.0.0.1 localhost\n{name}\nagain\n"
    daemon.wait_until_clean([daemon.place("v1")])
    assert "Committed" in daemon.ctr("snapshot", "--snapshotter", "overlayfs", "ls").stdout
