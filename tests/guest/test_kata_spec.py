"""Parts of config.json that a guest could have other than runc's containers do: ids, hooks, namespaces, privileges; and
checkpoints: what is saved goes on, elsewhere and more than once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.kata_tools import COUNTER, PATIENCE, Oci, eventually, leftovers, numbers
from tools import guest as recipes

MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("spec"))
    yield made
    made.close()
    eventually(lambda: leftovers(made.folder) == [], "something is left")


def run(oci: Oci, script: str, name: str = "c1", **changes: Any) -> str:
    done = oci.run("run", "--bundle", oci.bundle(script, **changes), name)
    assert done.returncode == 0, done.stderr + oci.console()
    return done.stdout


def test_a_long_name(oci: Oci) -> None:
    assert run(oci, "echo on", "a" * 255) == "on\n"


def test_a_hook_in_the_container(oci: Oci) -> None:
    """Of the container's own programs, in its namespaces, before its process."""
    hook = oci.rootfs / "bin" / "hook"
    hook.write_text("#!/bin/sh\n(cat; echo; echo $MARK; hostname) >/tmp/hook\n")
    hook.chmod(0o755)
    hooks = {"startContainer": [{"path": "/bin/hook", "args": ["hook"], "env": ["MARK=m", "PATH=/bin"]}]}
    state, mark, name = run(oci, "cat /tmp/hook", hooks=hooks, hostname="inside").splitlines()
    assert (mark, name, json.loads(state)["id"]) == ("m", "inside", "c1")
    hook.write_text("#!/bin/sh\nexit 1\n")
    done = oci.run("run", "--bundle", oci.bundle("echo on", hooks=hooks), "c2")
    assert (done.returncode != 0, done.stdout) == (True, "")


def test_ipc_and_its_settings_are_the_containers(oci: Oci) -> None:
    script = "cat /proc/sys/kernel/shmmni; ls /dev/mqueue >/dev/null && echo queues; cat /proc/sys/net/ipv4/ip_forward"
    settings = {"kernel.shmmni": "77", "net.ipv4.ip_forward": "1"}
    assert run(oci, script, linux__sysctl=settings) == "77\nqueues\n1\n"
    without = [{"type": kind} for kind in NAMESPACES if kind != "ipc"]
    assert run(oci, script, linux__sysctl=settings, linux__namespaces=without) == "77\nqueues\n1\n"


def test_without_a_pid_namespace_the_guest_is_the_host(oci: Oci) -> None:
    """The table of differences says so: what is shared with the host is shared with the machine."""
    without = [{"type": kind} for kind in NAMESPACES if kind != "pid"]
    script = "echo $$; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'"
    number, first, _ = run(oci, script, linux__namespaces=without).splitlines()
    assert int(number) > 1
    assert first == "init"


def test_devices_without_a_mount_for_them(oci: Oci) -> None:
    """They are the guest's, in its memory: nothing of them is in the root, where mknod(2) fails."""
    bundle = Path(
        oci.bundle(
            "echo gone >/dev/null && stat -c %t:%T /dev/null /dev/mine; mknod /null c 1 3",
            linux__devices=[{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}],
        )
    )
    spec = json.loads((bundle / "config.json").read_text())
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    for name in ("bounding", "effective", "permitted"):
        spec["process"]["capabilities"][name] = [*spec["process"]["capabilities"][name], "CAP_MKNOD"]
    (bundle / "config.json").write_text(json.dumps(spec))
    done = oci.run("run", "--bundle", str(bundle), "c1")
    assert (done.returncode, done.stdout) == (1, "1:3\n1:5\n"), done.stderr
    assert done.stderr == "mknod: /null: Operation not permitted\n"
    assert os.listdir(oci.rootfs / "dev") == []


def test_who_may_do_everything(oci: Oci) -> None:
    """As `--privileged` asks: the host's devices are left out, the guest's are there, and can be used."""
    everything = Path("/proc/sys/kernel/cap_last_cap").read_text()
    assert int(everything) >= 40
    names = ["CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD", "CAP_SYSLOG", "CAP_NET_ADMIN", "CAP_CHOWN"]
    bundle = oci.bundle(
        "ls /dev; head -c 8 /dev/pmem0 | wc -c; mount -t tmpfs x /mnt && echo mounted; test -w /sys/kernel && echo sys",
        linux__devices=[{"path": "/dev/cpu_dma_latency", "type": "c", "major": 10, "minor": 124}],
        linux__resources={"devices": [{"allow": True, "access": "rwm"}]},
        linux__maskedPaths=[],
        linux__readonlyPaths=[],
    )
    (oci.rootfs / "mnt").mkdir(exist_ok=True)
    path = Path(bundle, "config.json")
    spec = json.loads(path.read_text())
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    for mount in spec["mounts"]:
        if mount["type"] == "sysfs":
            mount["options"].remove("ro")
    path.write_text(json.dumps(spec))
    done = oci.run("run", "--bundle", bundle, "c1")
    assert done.returncode == 0, done.stderr + oci.console()
    lines = done.stdout.split()
    assert "cpu_dma_latency" not in lines
    assert {"kmsg", "fuse", "hwrng", "pmem0"} <= set(lines)
    assert lines[-3:] == ["8", "mounted", "sys"]


def test_an_overlay_as_a_volume(oci: Oci) -> None:
    layers = []
    for name in ("lower", "upper", "work"):
        (oci.folder / name).mkdir()
        layers.append(f"{name}dir={oci.folder / name}")
    (oci.folder / "lower" / "file").write_text("below\n")
    volume = {"destination": "/x", "type": "overlay", "source": "overlay", "options": [*layers, "private"]}
    assert (
        run(oci, "cat /x/file; echo new >/x/file; echo more >/x/more; cat /x/file", mounts=[volume]) == "below\nnew\n"
    )
    assert (oci.folder / "lower" / "file").read_text() == "below\n"
    assert sorted(path.name for path in (oci.folder / "upper").iterdir()) == ["file", "more"]


def owned_rootfs(oci: Oci) -> Path:
    """A root file system that belongs to the ids of MAPPING, as engines make one."""
    path = oci.folder / "owned"
    if not path.exists():
        shutil.copytree(oci.rootfs, path, symlinks=True)
        subprocess.run(["chown", "-hR", "100000:100000", str(path)], check=True)
    return path


def test_a_user_namespace(oci: Oci) -> None:
    """Its root is somebody else on the host, there and in what it writes."""
    work = oci.folder / "work-of-others"
    work.mkdir()
    work.chmod(0o777)
    volume = {"destination": "/work", "type": "bind", "source": str(work), "options": ["rbind"]}
    changes: dict[str, Any] = {
        "root": {"path": str(owned_rootfs(oci))},
        "mounts": [volume],
        "linux__uidMappings": MAPPING,
        "linux__gidMappings": MAPPING,
        "linux__namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")],
    }
    script = """
    id -u; cat /proc/self/uid_map; hostname; touch /work/mine /root/mine; stat -c %u /work/mine /bin/busybox
    ls /dev/mqueue /sys/fs/cgroup >/dev/null && echo mounts; echo x >/dev/shm/x; echo x >/dev/null; tty >/dev/null
    su -s /bin/sh nobody -c 'id -u; touch /work/nobodys' 2>&1"""
    (owned_rootfs(oci) / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    out = run(oci, script, hostname="inside", **changes).split()
    assert out[:6] == ["0", "0", "100000", "65536", "inside", "0"]
    assert out[6:8] == ["0", "mounts"]
    assert out[8:] == ["65534"]
    assert (work / "mine").stat().st_uid == 100000
    assert (work / "nobodys").stat().st_uid == 165534
    assert (owned_rootfs(oci) / "root" / "mine").stat().st_uid == 100000
    (owned_rootfs(oci) / "root" / "mine").unlink()


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_container_goes_on_where_it_was_checkpointed(oci: Oci, tmp_path: Path) -> None:
    oci.start("c1", COUNTER)
    bundle, image = oci.state("c1")["bundle"], tmp_path / "image"
    before = oci.folder / "c1.out"
    eventually(lambda: len(numbers(before)) > 5, "it does not count")
    pids = oci.check("ps", "--format", "json", "c1")
    oci.check("checkpoint", "--leave-running", "--image-path", str(image), "c1")
    seen = len(numbers(before))
    eventually(lambda: len(numbers(before)) > seen + 3, "it has not gone on")
    oci.check("checkpoint", "--image-path", str(image), "c1")
    assert oci.run("state", "c1").returncode == 1, "it has ended and is removed"
    told = numbers(before)
    assert told == list(range(1, len(told) + 1))
    assert sorted(os.listdir(image))[0] == "container.json" and len(os.listdir(image)) == 3

    after = oci.restore("c2", image, bundle)
    eventually(lambda: len(numbers(after)) > 3, "it does not go on")
    assert numbers(after)[0] == told[-1] + 1, "each number once"
    assert json.loads(oci.check("ps", "--format", "json", "c2"))[0] == json.loads(pids)[0]
    assert oci.state("c2")["status"] == "running"
    assert oci.check("exec", "c2", "cat", "/proc/1/comm") == "sh\n"
    oci.check("kill", "c2", "TERM")
    eventually(lambda: oci.state("c2")["status"] == "stopped", "it does not end")
    assert after.read_text().splitlines()[-1] == f"asked {numbers(after)[-1]}"
    log = numbers(oci.rootfs / "log")
    assert log == list(range(1, len(log) + 1)), "the open file is the same"
    oci.check("delete", "c2")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_checkpoint_of_a_machine_without_a_balloon(oci: Oci, tmp_path: Path) -> None:
    oci.check_older_checkpoint(tmp_path / "image")


def test_a_program_in_a_copy_is_notified(oci: Oci, tmp_path: Path) -> None:
    """It waits in inotify: the file has another line before the copy goes on, and nobody has to look at the time."""
    with tarfile.open(recipes.programs()) as archive:
        archive.extract("usr/local/bin/watchfile", oci.rootfs, filter="fully_trusted")
    script = "exec /usr/local/bin/watchfile /run/pyvmm/generation"
    oci.start("c1", script, annotations={"io.pyvmm.generation": "/run/pyvmm/generation"})
    eventually(lambda: oci.output("c1").startswith("is "), "it does not run")
    assert oci.run("exec", "c1", "sh", "-c", "echo mine >/run/pyvmm/generation").returncode != 0
    outs = tmp_path / "outs"
    with open(outs, "wb") as file:
        command = oci.command("fork", "--bundles", str(tmp_path), "c1", "c2", "c3")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE)
    assert done.returncode == 0, outs.read_text() + oci.console()
    eventually(lambda: outs.read_text().count("became") == 2, "the copies are not notified")
    words = [line.split()[1] for line in [*oci.output("c1").splitlines(), *outs.read_text().splitlines()]]
    assert len(set(words)) == 3, words
    assert "became" not in oci.output("c1"), "the source is what it was"
    for name in ("c1", "c2", "c3"):
        oci.check("delete", "--force", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_copies_are_others(oci: Oci, tmp_path: Path) -> None:
    script = "n=0; while :; do n=$((n + 1)); echo $n $(head -c 8 /dev/urandom | od -An -tx8); sleep 0.2; done"
    oci.start("c1", script)
    eventually(lambda: (oci.folder / "c1.out").read_text().count("\n") > 2, "it does not run")
    outs = tmp_path / "outs"
    with open(outs, "wb") as file:
        command = oci.command("fork", "--bundles", str(tmp_path), "c1", "c2", "c3")
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE, check=True)
    before = (oci.folder / "c1.out").read_text().split()
    eventually(lambda: outs.read_text().count("\n") > 6, "they do not go on")
    rows = [line.split() for line in outs.read_text().splitlines()]
    words = [row[1] for row in rows]
    assert len(set(words)) == len(words), rows
    oci.check("exec", "c2", "touch", "/made")
    assert (tmp_path / "c2" / "rootfs" / "made").exists() and not (oci.rootfs / "made").exists()
    assert len((oci.folder / "c1.out").read_text().split()) > len(before), "the source goes on"
    for name in ("c1", "c2", "c3"):
        oci.check("delete", "--force", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")
