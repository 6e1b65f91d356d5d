"""What a container sees at once of what the host wrote a moment before; and more volumes than one would think of."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import Oci, eventually

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("oci"))
    yield made
    made.close()


def test_the_first_instruction_sees_the_names_of_hosts_and_servers(podman: Podman) -> None:
    """podman writes these files between `create` and `start`."""
    options = ["--network", "podman", "--dns", "192.0.2.53", "--add-host", "there:192.0.2.1", "--hostname", "here"]
    for _ in range(3):
        told = podman.check("run", "--rm", *options, "box", "cat", "/etc/resolv.conf", "/etc/hosts")
        assert "nameserver 192.0.2.53" in told
        assert "192.0.2.1\tthere" in told
        assert "here" in told


def test_start_sees_what_was_written_after_create(oci: Oci, tmp_path: Path) -> None:
    for name in ("file", "folder/inner/deep", "unchanged/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    mounts = [
        {"type": "bind", "source": str(tmp_path / "file"), "destination": "/file", "options": ["rbind"]},
        {"type": "bind", "source": str(tmp_path / "folder"), "destination": "/folder", "options": ["rbind"]},
        # crun looks at what it mounts upon, in the other volume
        {"type": "bind", "source": str(tmp_path / "unchanged"), "destination": "/folder/inner", "options": ["rbind"]},
    ]
    script = "cat /file /folder/new /folder/inner/file; stat -c %a /folder"
    with open(tmp_path / "out", "wb") as out:
        command = oci.command("create", "--bundle", oci.bundle(script, mounts=mounts), "fresh")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    assert done.returncode == 0, (tmp_path / "out").read_text() + oci.console()
    (tmp_path / "file").write_text("file\n")
    (tmp_path / "folder" / "new").write_text("new\n")
    (tmp_path / "folder").chmod(0o711)
    (tmp_path / "unchanged" / "file").write_text("inner\n")
    oci.check("start", "fresh")
    eventually(lambda: oci.state("fresh")["status"] == "stopped", "it does not end")
    assert (tmp_path / "out").read_text() == "file\nnew\ninner\n711\n"
    oci.check("delete", "fresh")


def test_exec_sees_what_was_written_before(oci: Oci, tmp_path: Path) -> None:
    """Also where a program looks all the time, and as Kubernetes changes a ConfigMap: by another target of a link."""
    for number in range(6):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "key").write_text(f"value {number}" + "." * number + "\n")
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "key").symlink_to("..data/key")
    (tmp_path / "plain").write_text("plain 0\n")
    mount = {"type": "bind", "source": str(tmp_path), "destination": "/config", "options": ["rbind", "ro"]}
    oci.start("looks", "while cat /config/key /config/plain >/dev/null; do :; done; sleep 100000", mounts=[mount])
    for number in range(1, 6):
        (tmp_path / "..tmp").symlink_to(f"..{number}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        (tmp_path / "plain").write_text(f"plain {number}\n" * number)
        told = oci.check("exec", "looks", "cat", "/config/key", "/config/plain")
        assert told == f"value {number}" + "." * number + "\n" + f"plain {number}\n" * number
    oci.check("delete", "--force", "looks")


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.long)])
def test_a_container_has_many_binds(oci: Oci, tmp_path: Path, count: int) -> None:
    mounts = []
    for number in range(count):
        (tmp_path / f"{number}").write_text(f"{number}\n")
        mounts.append(
            {"type": "bind", "source": f"{tmp_path}/{number}", "destination": f"/binds/{number}", "options": ["rbind"]}
        )
    command = oci.command("run", "--bundle", oci.bundle("cat /binds/*", mounts=mounts), "many")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, done.stdout.split())) == list(range(count))


@pytest.mark.long  # half a minute
@pytest.mark.parametrize(("lives", "count"), [(2, 20), pytest.param(200, 60, marks=pytest.mark.long)])
def test_a_pod_has_many_mounts_in_its_life(podman: Podman, tmp_path: Path, lives: int, count: int) -> None:
    options = []
    for number in range(count):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "file").write_text(f"{number}\n")
        options += ["-v", f"{tmp_path}/{number}:/volumes/{number}"]
    podman.check("pod", "create", "--name", "long", "--network", "none")
    for _ in range(lives):
        told = podman.check("run", "--rm", "--pod", "long", *options, "box", "sh", "-c", "cat /volumes/*/file | wc -l")
        assert told.strip() == str(count)
    podman.check("pod", "rm", "--force", "--time", "0", "long")
