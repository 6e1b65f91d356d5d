"""podman's options that change whose the container is: user namespaces, privileges, namespaces of others, overlays."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_podman import Podman, notes
from tests.guest.kata_tools import PATIENCE, eventually

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
RUN = ("run", "--rm", "--network", "none")
SCRIPT = "cat /proc/self/uid_map; id -u; touch /data/made /made; stat -c %u /made /data/made; cat /etc/hostname"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    made = Podman(tmp_path_factory.mktemp("userns"))
    yield made
    made.run("rm", "--all", "--force", "--time", "1")
    assert list(made.folder.glob("state/*")) == [], notes(made.folder)


def volume(podman: Podman, name: str) -> Path:
    path = podman.folder / name
    path.mkdir()
    path.chmod(0o777)
    return path


def test_a_mapping(podman: Podman) -> None:
    data = volume(podman, "mapped")
    out = podman.check(
        *RUN, "--uidmap", "0:100000:65536", "-v", f"{data}:/data", "--hostname", "h", "box", "sh", "-c", SCRIPT
    )
    assert out.split() == ["0", "100000", "65536", "0", "0", "0", "h"]
    assert (data / "made").stat().st_uid == 100000
    owned = volume(podman, "owned")
    podman.check(*RUN, "--uidmap", "0:100000:65536", "-v", f"{owned}:/data:U", "box", "sh", "-c", "chmod 700 /data")
    assert (owned.stat().st_uid, owned.stat().st_mode & 0o777) == (100000, 0o700)


@pytest.mark.long  # the mapping of the test above, with other numbers
def test_a_mapping_that_podman_chooses(podman: Podman) -> None:
    """`--userns auto` has its ids of /etc/subuid, here another file."""
    ids = podman.folder / "subid"
    ids.write_text("containers:200000:200000\n")
    data = volume(podman, "auto")
    words = podman.command(*RUN, "--userns", "auto", "-v", f"{data}:/data", "box", "sh", "-c", SCRIPT)
    binds = "; ".join(f"mount --bind {ids} /etc/{name}" for name in ("subuid", "subgid"))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f"{binds}; exec {shlex.join(words)}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    inside, outside, *rest = done.stdout.split()
    assert (inside, rest[1:4]) == ("0", ["0", "0", "0"])
    assert 200000 <= int(outside) < 400000
    assert (data / "made").stat().st_uid == int(outside)


def test_the_callers_ids(podman: Podman) -> None:
    data = volume(podman, "kept")
    out = podman.check(*RUN, "--userns", "keep-id", "-v", f"{data}:/data", "box", "sh", "-c", SCRIPT)
    assert out.split()[3:6] == ["0", "0", "0"]
    assert (data / "made").stat().st_uid == 0


@pytest.mark.long  # test_kata_podman.py has a server, the next test networks of a container that is mapped
@pytest.mark.parametrize("options", [("--uidmap", "0:100000:65536"), ()], ids=["mapped", "plain"])
def test_a_server_on_a_network_of_podmans(podman: Podman, options: tuple[str, ...]) -> None:
    """podman makes it between create and start where it has to belong to the container's user namespace."""
    serve = "echo a page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    options += ("--sysctl", "net.ipv4.ping_group_range=0 0", "-p", "127.0.0.1:18190:80")
    podman.check("run", "--detach", "--replace", "--name", "web", *options, "box", "sh", "-c", serve)
    address = podman.check("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web").strip()
    assert f"inet {address}/" in podman.check("exec", "web", "ip", "-o", "addr", "show", "eth0")
    # Shown in the ids of whoever reads it
    assert podman.check("exec", "web", "cat", "/proc/sys/net/ipv4/ping_group_range").split() == ["0", "0"]
    fetch = ["busybox", "wget", "-qO-", "-T10", "http://127.0.0.1:18190/"]
    eventually(lambda: subprocess.run(fetch, capture_output=True, text=True).stdout == "a page\n", "no page")
    podman.check("rm", "--force", "--time", "1", "web")


@pytest.mark.long  # 40 seconds; test_kata_podman.py has one network
def test_several_networks_and_a_chosen_address(podman: Podman) -> None:
    """The interfaces come when the machine runs, and are the guest's with names and addresses of their own."""
    for name in ("one", "two"):
        podman.check("network", "create", name)
    mac = "02:00:00:00:00:77"
    networks = ("--network", f"one:mac={mac}", "--network", "two")
    try:
        out = podman.check(
            "run", "--rm", "--uidmap", "0:100000:65536", *networks, "box", "sh", "-c",
            "cd /sys/class/net; echo *; cat eth*/address; ip -4 -o addr show | grep -c eth",
        )  # fmt: skip
    finally:
        podman.check("network", "rm", "one", "two")
    names, *addresses, count = out.splitlines()
    assert (names.split(), count) == (["eth0", "eth1", "lo"], "2")
    assert addresses.count(mac) == 1, "podman takes the networks in any order"


def test_everything_that_is_the_guests(podman: Podman) -> None:
    script = "mount -t tmpfs x /tmp && ls /dev/kmsg; ls /dev | grep -c kvm; test -w /sys/kernel && echo sys"
    done = podman.run(*RUN, "--privileged", "box", "sh", "-c", script)
    assert done.stdout.split() == ["/dev/kmsg", "0", "sys"], done.stderr
    refused = podman.run(*RUN, "--device", "/dev/kvm", "box", "true")
    assert "'/dev/kvm': the guest has no such device" in refused.stderr


@pytest.mark.long  # half a minute; an overlay as a volume is in test_kata_spec.py
def test_overlays(podman: Podman) -> None:
    data = volume(podman, "below")
    (data / "file").write_text("below\n")
    out = podman.check(
        *RUN, "-v", f"{data}:/data:O", "box", "sh", "-c", "cat /data/file; echo x >/data/file; cat /data/file"
    )
    assert out == "below\nx\n"
    assert (data / "file").read_text() == "below\n"
    image = podman.check(*RUN, "--mount", "type=image,source=box,destination=/image", "box", "ls", "/image/bin/busybox")
    assert image == "/image/bin/busybox\n"


@pytest.mark.long  # half a minute; pods share namespaces in test_kata_face.py
def test_namespaces_of_others(podman: Podman) -> None:
    """A container that shares namespaces with another one is in its machine."""
    podman.check("run", "--detach", "--name", "other", "--network", "none", "box", "sleep", "100000")
    done = podman.run(*RUN, "--ipc=container:other", "box", "true")
    assert "the ipc namespace is another container's, whose virtual machine has one network" in done.stderr
    run = ("run", "--rm", "--network", "container:other")
    kinds = ("pid", "ipc", "uts")
    script = f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done"
    links = podman.check("exec", "other", "sh", "-c", script)
    options = (f"--{kind}=container:other" for kind in kinds)
    assert podman.check(*run, *options, "box", "sh", "-c", script) == links
    assert podman.check("exec", "other", "echo", "still there") == "still there\n"
    assert "sleep 100000" in podman.check(*run, "--pid=container:other", "box", "ps")
    podman.check("rm", "--force", "--time", "1", "other")
