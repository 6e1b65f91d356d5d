"""The user namespace of a sandbox: whose files programs see, and what their root may do with them, as on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm_kata.errors import AgentError
from tests.sentry.containers import Sandbox

if TYPE_CHECKING:
    from tests.sentry.conftest import Compile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")

USERS, GROUPS, COUNT = 100000, 200000, 1000
"""The first ids of the host that the namespace has, and how many."""
USER = 5
LINUX = {
    "namespaces": [{"type": "user"}],
    "uidMappings": [{"containerID": 0, "hostID": USERS, "size": COUNT}],
    "gidMappings": [{"containerID": 0, "hostID": GROUPS, "size": COUNT}],
}

RIGHTS = [
    f"CAP_{name}"
    for name in ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "MKNOD")
] + ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
CAPABILITIES = dict.fromkeys(("bounding", "effective", "permitted"), RIGHTS)


def fill(folder: Path, program: Path) -> None:
    """The files that ``users.c`` looks for. They belong to root or a user of the namespace, or to root of the host."""
    owners = {"root": (USERS, GROUPS), "user": (USERS + USER, GROUPS + USER), "host": (0, 0), "half": (USERS, 0)}
    for name, (user, group) in owners.items():
        path = folder / name
        path.write_text("text")
        os.chown(path, user, group)
        path.chmod(0o600)
        if name != "half":
            below = folder / f"of-{name}"
            below.mkdir()
            os.chown(below, user, group)
            below.chmod(0o700 if name == "user" else 0o755)
            copy = folder / f"as-{name}"
            shutil.copy(program, copy)
            os.chown(copy, user, group)
            copy.chmod(0o4755)
    (folder / "of-host" / "open").mkdir()
    (folder / "of-host" / "open").chmod(0o1777)
    (folder / "of-host" / "open" / "file").touch()
    os.chown(folder, USERS, GROUPS)
    folder.chmod(0o755)


@pytest.fixture
def mapped(platform: Path, tmp_path: Path) -> Iterator[Sandbox]:
    maps: dict[str, Any] = {
        "maps": ((0, USERS, COUNT),),
        "group_maps": ((0, GROUPS, COUNT),),
        "unmapped": 0xFFFFFFFF,
        "permissions": "guest",
    }
    made = Sandbox(platform, tmp_path, **maps)
    try:
        made.begin()
        yield made
    finally:
        made.close()


def root(sandbox: Sandbox, name: str) -> Path:
    """A root directory whose files belong to root of the namespace."""
    made = sandbox.root(name)
    for path in (made, *made.rglob("*")):
        os.lchown(path, USERS, GROUPS)
    return made


def test_users_and_files_are_as_on_linux(mapped: Sandbox, compile_static: Compile, tmp_path: Path) -> None:
    program = compile_static("users")
    native = tmp_path / "native"
    native.mkdir()
    fill(native, program)
    command = ["unshare", f"--map-users=0:{USERS}:{COUNT}", f"--map-groups=0:{GROUPS}:{COUNT}", "-S0", "-G0"]
    done = subprocess.run([*command, "./as-root"], cwd=native, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    fill(root(mapped, "c1"), program)
    status, text = mapped.run("c1", "/as-root", spec={"linux": LINUX}, capabilities=CAPABILITIES)
    assert text.splitlines() == done.stdout.splitlines()
    assert status == 0
    made = mapped.shared / "c1" / "rootfs" / "of-user" / "mine"
    assert (made.stat().st_uid, made.stat().st_gid) == (USERS + USER, GROUPS + USER)


def test_containers_share_the_namespace(mapped: Sandbox) -> None:
    """It is the first one's; a later one names it or repeats its maps, and has no other."""
    root(mapped, "c1")
    mapped.create("c1", "sh", "-c", "echo up; read line", spec={"linux": LINUX})
    mapped.agent.start_container("c1")
    assert mapped.read_until("c1", "up\n") == "up\n"
    join = {"namespaces": [{"type": "user", "path": "container:c1"}]}
    for name, linux in (("c2", LINUX), ("c3", join)):
        root(mapped, name)
        assert mapped.run(name, "cat", "/proc/self/uid_map", spec={"linux": linux})[1].split() == [
            "0",
            "100000",
            "1000",
        ]
    other = {**LINUX, "uidMappings": [{"containerID": 0, "hostID": USERS + 1, "size": COUNT}]}
    for name, wrong in (("c4", other), ("c5", {})):
        root(mapped, name)
        with pytest.raises(AgentError, match="same user namespace"):
            mapped.create(name, "true", spec={"linux": wrong})


@pytest.mark.parametrize(
    "user", [{"uid": 1000, "gid": 0}, {"uid": 0, "gid": 1000}, {"uid": 0, "gid": 0, "additionalGids": [1000]}]
)
def test_a_process_is_a_user_of_the_namespace(mapped: Sandbox, user: dict[str, Any]) -> None:
    root(mapped, "c1")
    with pytest.raises(AgentError, match="no map of the user namespace"):
        mapped.create("c1", "true", spec={"linux": LINUX}, user=user)
    status, text = mapped.run("c1", "id", "-u", spec={"linux": LINUX}, user={"uid": 999, "gid": 999})
    assert (status, text) == (0, "999\n")


def test_without_a_namespace_ids_are_the_hosts(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    text = sandbox.run("c1", "cat", "/proc/self/uid_map", "/proc/self/gid_map")[1]
    assert text == "         0          0 4294967295\n" * 2
