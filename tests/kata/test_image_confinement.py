"""mkfs.erofs on files of a hostile image: what it reads, what it reaches, and how long and large it may get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.errors import HostError
from pyvmm_kata.host.confinement import Limits
from pyvmm_kata.image_store import store as image_store
from pyvmm_kata.image_store.store import ImageStore
from tests.kata.test_images import USER, archive, as_root, entry, link, make_layout

ENOSYS = [
    "socket",
    "unix",
    "fork",
    "clone",
    "clone3",
    "kill",
    "trace",
    "limits",
    "mount",
    "namespace",
    "user",
    "device",
]
READ_ONLY = ["change", "create", "root", "library"]


@pytest.fixture
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a program of the attacker the mkfs.erofs that is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    source = Path(__file__).parent / "src" / "taken_over.c"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-o", folder / "mkfs.erofs", source], check=True)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "mkfs.erofs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "closed").write_text("content")
    (root / "closed").chmod(0)
    return root


def check_nothing_is_left(folder: Path) -> None:
    assert os.listdir(folder / "work") == os.listdir(folder / "images") == []


def check_confined(report: str) -> None:
    lines = report.rstrip("\0").splitlines()
    seen = {line.removeprefix("sees ") for line in lines if line.startswith("sees ")}
    own = {"tree", "output", "program"}
    assert own <= seen <= own | {"lib", "lib32", "lib64", "usr", "etc"}
    assert not [line for line in lines if line.startswith("holds ")]
    found = dict(line.split() for line in lines if not line.startswith("sees "))
    assert found.pop("read") == "done", "files whose permissions exclude their owner belong to the image"
    assert {found.pop(name) for name in READ_ONLY} <= {"EROFS", "EACCES"}
    assert {name: found.pop(name) for name in ENOSYS} == dict.fromkeys(ENOSYS, "ENOSYS")
    assert found == {"passwd": "ENOENT", "proc": "ENOENT", "above": "ENOENT", "remove": "ENOSYS", "shell": "ENOENT"}


def test_a_program_that_was_taken_over_reaches_nothing(taken_over: Path, root: Path, tmp_path: Path) -> None:
    image = ImageStore(str(tmp_path / "store")).add(str(root))
    check_confined(Path(image.path).read_text())
    assert os.listdir(root) == ["closed"]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_limits_of_time_and_size(taken_over: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(str(tmp_path / "store"))
    monkeypatch.setattr(image_store, "MKFS_LIMITS", Limits(0.5, 1 << 20))
    (root / "spin").touch()
    with pytest.raises(HostError, match=r"mkfs.erofs: not done after 0.5 s"):
        store.add(str(root))
    check_nothing_is_left(tmp_path / "store")
    (root / "spin").rename(root / "flood")
    monkeypatch.setattr(image_store, "MKFS_LIMITS", Limits(60, 1 << 20))
    with pytest.raises(HostError, match=r"mkfs.erofs: the output: File too large \(status 2\)"):
        store.add(str(root))
    check_nothing_is_left(tmp_path / "store")


def test_odd_files_of_an_image_are_stored_as_they_are(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    members = [
        *(link("absolute", str(secret)), link("above", "../" * 40 + str(secret)), link("loop", "loop")),
        *(entry("-x9", b"1"), entry("line\nbreak", b"2"), entry("n" * 255, b"3"), entry("closed", b"4", mode=0)),
        entry("fifo", b"", type=b"6"),
    ]
    layout = make_layout(tmp_path / "layout", [archive(members)])
    image = ImageStore(str(tmp_path / "store")).add(str(layout), "odd")
    found = tmp_path / "found"
    subprocess.run(["fsck.erofs", "-d0", f"--extract={found}", image.path], check=True)
    assert {each.name for each in found.iterdir()} == {member[0].name for member in members}
    assert os.readlink(found / "absolute") == str(secret)
    assert b"of the host" not in Path(image.path).read_bytes()
    assert (found / "fifo").is_fifo()


def test_a_tree_deeper_than_a_path_is_long_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    store = ImageStore(str(tmp_path / "store"))
    with pytest.raises(HostError, match=r"^mkfs.erofs: .*\(status \d+\)$"):
        store.add(str(root))
    check_nothing_is_left(tmp_path / "store")


SCRIPT = """
import json, sys
from pyvmm_kata.image_store.store import ImageStore
print(json.dumps(ImageStore(sys.argv[2]).add(sys.argv[1])._asdict()))
"""


@as_root
@pytest.mark.parametrize("hostile", [False, True])
def test_an_ordinary_user(tmp_path: Path, user_folder: Path, request: pytest.FixtureRequest, hostile: bool) -> None:
    make_layout(user_folder / "layout", [archive([entry("closed", b"content", mode=0)])])
    path = os.environ["PATH"]
    if hostile:
        program = request.getfixturevalue("taken_over")
        subprocess.run(["cp", program, user_folder], check=True)
        path = f"{user_folder}:{path}"
    subprocess.run(["chown", "-R", f"{USER}:{USER}", user_folder], check=True)
    become = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--"]
    command = [*become, sys.executable, "-c", SCRIPT, str(user_folder / "layout"), str(user_folder / "store")]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    content = Path(json.loads(done.stdout)["path"]).read_bytes()
    if hostile:
        check_confined(content.decode())
    else:
        assert b"content" in content


@pytest.fixture
def user_folder() -> Iterator[Path]:
    """A folder that an ordinary user can reach; pytest's own are root's."""
    if subprocess.run(["setpriv", "--reuid", str(USER), "--clear-groups", "unshare", "-U", "true"]).returncode:
        pytest.skip("no user namespaces")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)
