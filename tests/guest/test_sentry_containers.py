"""Containers whose guest is the Sentry, in a machine: checkpoints, copies, machines of a pool."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.image_store.store import ImageStore
from tests.guest.kata_tools import BIN, COUNTER, PATIENCE, Oci, eventually, leftovers, numbers

pytestmark = pytest.mark.guest


class SentryOci(Oci):
    """pyvmm-oci with the Sentry as the guest."""

    isolation: tuple[str, ...] = ("--isolation", "sentry")

    def command(self, *arguments: str) -> list[str]:
        head = super().command()
        return [*head, *(self.isolation if arguments[:1] == ("create",) else ()), *arguments]

    def fork(self, *names: str) -> None:
        """Their output goes to a file, as they inherit it. *names*: no two tests have one in common: bundles stay."""
        command = self.command("fork", "--bundles", str(self.folder), *names)
        with (self.folder / "forks.out").open("wb") as out:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE)


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentryOci]:
    made = SentryOci(tmp_path_factory.mktemp("sentry"))
    yield made
    made.close()


def test_a_container_goes_on_where_it_was_checkpointed(oci: SentryOci, tmp_path: Path) -> None:
    """Its processes, its files and its names are as they were; the restore finds the kind of guest by itself."""
    oci.start("c1", COUNTER, hostname="kept")
    bundle, image, before = oci.state("c1")["bundle"], tmp_path / "image", oci.folder / "c1.out"
    eventually(lambda: len(numbers(before)) > 3, "it does not count")
    eventually(lambda: "    task_run+0x" in oci.check("ps", "--format", "stacks", "c1"), "no task waits")
    oci.check("checkpoint", "--image-path", str(image), "c1")
    assert oci.run("state", "c1").returncode == 1, "it has ended and is removed"
    told = numbers(before)
    after = oci.restore("c2", image, bundle)
    eventually(lambda: len(numbers(after)) > 3, "it does not go on")
    assert numbers(after)[0] == told[-1] + 1, "each number once"
    show = "cat /proc/1/comm /dev/shm/kept; hostname; echo /proc/[0-9]*"
    assert oci.check("exec", "c2", "sh", "-c", show).splitlines()[:3] == ["sh", "kept", "kept"]
    oci.check("kill", "c2", "TERM")
    eventually(lambda: oci.state("c2")["status"] == "stopped", "it does not end")
    assert after.read_text().splitlines()[-1] == f"asked {numbers(after)[-1]}"
    log = numbers(oci.rootfs / "log")
    assert log == list(range(1, len(log) + 1)), "the open file is the same"
    oci.check("delete", "c2")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_copies_go_on_beside_their_original(oci: SentryOci) -> None:
    """Each has the memory of the moment of the fork, files of its own, and random numbers of its own."""
    (oci.rootfs / "log").unlink(missing_ok=True)
    oci.start("c1", COUNTER)
    before = oci.folder / "c1.out"
    eventually(lambda: len(numbers(before)) > 3, "it does not count")
    oci.fork("c1", "f1", "f2")
    told = numbers(before)
    draw = "cat /dev/shm/kept; head -c 16 /dev/urandom | md5sum; touch /own-$1; ls / | grep own"
    said = [oci.check("exec", name, "sh", "-c", draw, "sh", name).split() for name in ("c1", "f1", "f2")]
    assert [(words[0], words[3:]) for words in said] == [("kept", [f"own-{name}"]) for name in ("c1", "f1", "f2")]
    assert len({words[1] for words in said}) == 3
    eventually(lambda: len(numbers(before)) > len(told), "the original does not go on")
    logs = [oci.folder / name / "rootfs" / "log" for name in ("f1", "f2")]
    seen = [len(numbers(log)) for log in logs]
    eventually(lambda: all(len(numbers(log)) > so_far for log, so_far in zip(logs, seen, strict=True)), "a copy stands")
    for log in logs:
        found = numbers(log)
        assert found == list(range(1, len(found) + 1)), "the open file is the copy's own"
    for name in ("f2", "f1", "c1"):
        oci.check("delete", "--force", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_an_image_of_the_store(oci: SentryOci, tmp_path: Path) -> None:
    """The Sentry reads it. What a container has written is in its memory, also after a checkpoint and in copies."""
    store = ImageStore(str(tmp_path / "store"))
    image = store.add(str(oci.rootfs), "box")
    before = Path(image.path).read_bytes()
    oci.start("c1", "echo mine >/bin/new; exec sleep 600", root={"path": image.path})
    bundle, saved = oci.state("c1")["bundle"], tmp_path / "image"
    show = "cat /bin/new; wc -c </bin/busybox; rm -f /bin/wc; ls / | wc -w"
    said = oci.check("exec", "c1", "sh", "-c", show)
    assert said.startswith(f"mine\n{(oci.rootfs / 'bin' / 'busybox').stat().st_size}\n")
    oci.fork("c1", "g1")
    oci.check("exec", "g1", "sh", "-c", "echo copy >/bin/new")
    assert not (oci.folder / "g1" / "rootfs").exists(), "its root was copied"
    oci.check("checkpoint", "--image-path", str(saved), "c1")
    oci.restore("c2", saved, bundle)
    assert oci.check("exec", "c2", "cat", "/bin/new") == "mine\n"
    assert oci.check("exec", "g1", "cat", "/bin/new") == "copy\n"
    assert store.prune(unused=True)[0] == [], "both have it"
    for name in ("c2", "g1"):
        oci.check("delete", "--force", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")
    assert Path(image.path).read_bytes() == before
    assert [each.id for each in store.prune(unused=True)[0]] == [image.id]


@pytest.fixture
def pool(oci: SentryOci) -> Iterator[subprocess.Popen[bytes]]:
    """One machine is ready."""
    oci.settings.write_text(f'{oci.settings.read_text()}guest = "sentry"\npool = 1\n')
    made = subprocess.Popen([BIN / "pyvmm-poold", *oci.command()[1:]])
    try:
        yield made
    finally:
        made.kill()
        made.wait()


def figures(oci: SentryOci) -> dict[str, int]:
    command = [str(BIN / "pyvmm-poold"), *oci.command()[1:], "--status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"ready": 0, "made": 0, "given": 0}


def test_a_pool_gives_machines_that_have_booted(oci: SentryOci, pool: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """With a volume, limits, a name and random numbers of its own; no template is made. The last has an image."""
    show = "hostname; cat /data/own /sys/fs/cgroup/memory.max"
    script = f"{show}; head -c 16 /dev/urandom | md5sum; echo >/data/made"
    limits = {"memory": {"limit": 64 << 20}}
    said = []
    for number in (1, 2):
        eventually(lambda: figures(oci)["ready"] == 1, "no machine becomes ready")
        volume = oci.folder / f"volume{number}"
        volume.mkdir()
        (volume / "own").write_text(f"{number}\n")
        mounts = [{"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]}]
        bundle = oci.bundle(script, mounts=mounts, hostname=f"host{number}", linux__resources=limits)
        lines = oci.check("--isolation", "sentry", "run", "--bundle", bundle, "c1").splitlines()
        assert lines[:3] == [f"host{number}", str(number), str(64 << 20)]
        assert (volume / "made").read_text() == "\n"
        said.append(lines[3])
        assert figures(oci)["given"] == number
    assert said[0] != said[1], "their random numbers are the same"
    eventually(lambda: figures(oci)["ready"] == 1, "no machine becomes ready")
    image = ImageStore(str(tmp_path / "store")).add(str(oci.rootfs))
    oci.start("c2", "echo own >/bin/new; exec sleep 600", root={"path": image.path})
    assert figures(oci)["given"] == 3
    oci.fork("c2", "h1")
    assert oci.check("exec", "h1", "cat", "/bin/new") == "own\n"
    oci.check("delete", "--force", "h1")
    assert oci.check("exec", "c2", "sh", "-c", "echo it runs; cat /proc/1/comm") == "it runs\nsleep\n"
    pool.kill()
    pool.wait()
    assert oci.check("exec", "c2", "echo", "it goes on") == "it goes on\n"
    oci.check("kill", "c2", "KILL")
    eventually(lambda: oci.state("c2")["status"] == "stopped", "it does not end")
    oci.check("delete", "c2")
    done = oci.run("template", "build")
    assert (done.returncode, "there are no templates of guests of the kind sentry" in done.stderr) == (1, True)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.long  # tests/guest/test_kata_spec.py has one
def test_a_checkpoint_of_a_machine_without_a_balloon(oci: SentryOci, tmp_path: Path) -> None:
    oci.check_older_checkpoint(tmp_path / "image")
