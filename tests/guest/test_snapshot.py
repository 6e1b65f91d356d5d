"""Snapshots of real guests: what was in RAM is there in a clone, and it goes on with its disks, networks and clocks."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, of_threads
from tests.guest.clones import HANGS, TROUBLE, Child, MakeClone, prepare_fork
from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, LOAD, ONLINE, programs_disk
from tests.guest.vmfixture import PROMPT, RUN_TIMEOUT, Guest
from tools import guest as recipes
from tools.versions import has_event
from tools.where import PYVMM
from vmm import (
    BalloonConfig,
    ConfigError,
    ConsoleConfig,
    DiskConfig,
    Machine,
    NetConfig,
    ShareConfig,
    VsockConfig,
)
from vmm.control.client import ask
from vmm.saving import verify as whole

TICK = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/next; mv /tmp/next /tmp/tick; done) &"
"""What counts on in RAM alone: a reboot begins at 1."""
CALM_TICK = TICK.replace("; done", "; sleep 0.1; done")  # the CPUs are for others, too
COPY = "dd if=/bin/sh bs=64k count=2 2>/dev/null"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@pytest.mark.parametrize(
    ("cpus", "transport", "more"),
    [
        pytest.param(1, "mmio", {}, marks=pytest.mark.long),
        pytest.param(2, "pci", {}, marks=pytest.mark.long),
        pytest.param(4, "mmio", {"virtqueues": "packed"}, marks=pytest.mark.long),
        (2, "pci", {"virtqueues": "packed", "balloon": BalloonConfig(), "console": ConsoleConfig(device="virtio")}),
    ],
    ids=["one", "pci", "four-packed", "pci-packed"],
)
def test_a_clone_goes_on_where_its_template_was(
    boot: Boot, clone: MakeClone, tmp_path: Path, cpus: int, transport: str, more: dict[str, Any]
) -> None:
    guest = boot(cpus=cpus, transport=transport, **more)
    guest.check(f"echo nonce-$$ >/tmp/nonce; echo disk >/root/file; sync; {TICK} ticker=$!")
    guest.check("until [ -s /tmp/tick ]; do :; done")
    before = int(guest.check("cat /tmp/tick"))
    guest.machine.snapshot(str(tmp_path / "warm"))
    after = int(guest.check("cat /tmp/tick"))
    assert after > before, "the template goes on"
    guest.check("kill $ticker")
    saved = digest(tmp_path / "warm" / "disk0")
    clones = [clone(tmp_path / "warm", guest), clone(tmp_path / "warm", guest, cow="overlay")]
    for number, each in enumerate(clones):
        assert each.check("cat /tmp/nonce") == guest.check("cat /tmp/nonce")
        assert int(each.check("cat /tmp/tick")) >= before
        each.check("kill $ticker")  # or nobody else would have the CPUs of a small host
        assert each.check(f"echo {number} >/root/own; sync; cat /root/file; nproc") == f"disk\n{cpus}\n"
        each.check("echo 3 >/proc/sys/vm/drop_caches; find /bin /etc /usr -type f | head -200 | xargs cat >/dev/null")
        first = float(each.check("cut -d' ' -f1 /proc/uptime"))
        # its clock and its timers agree
        assert round(float(each.check("sleep 1; cut -d' ' -f1 /proc/uptime")) - first, 2) >= 1
        assert each.check(TROUBLE) == ""
    assert [each.check("cat /root/own") for each in clones] == ["0\n", "1\n"]
    assert guest.run("cat /root/own")[0] != 0, "clones write no disk but their own"
    everybody: list[Guest] = [*clones, guest]
    for one in everybody:
        assert one.power_off().kind == "poweroff"
    whole.verify_snapshot(str(tmp_path / "warm"))
    assert digest(tmp_path / "warm" / "disk0") == saved
    assert sorted(os.listdir(tmp_path / "warm")) == ["disk0", "manifest.json", "memory", "state"]
    assert not [name for name in os.listdir(tmp_path) if "clone" in name], "copies of disks end with their clones"


def test_clones_have_the_vcpus_that_there_were_and_get_more(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    guest = boot(cpus=1, max_cpus=3)
    guest.machine.resize_cpus(2)
    guest.check(ONLINE.format(1, 1))
    guest.machine.snapshot(str(tmp_path / "warm"))
    for each in (clone(tmp_path / "warm", guest), clone(tmp_path / "warm", guest)):
        assert each.check("nproc") == "2\n"
        each.check(LOAD.format(1, 2))
        each.machine.resize_cpus(3)
        assert each.check(f"{ONLINE.format(2, 1)}; nproc") == "3\n"
        each.check(LOAD.format(2, 4))
        assert each.check(f"{ONLINE.format(1, 0)}; {ONLINE.format(2, 0)}; nproc") == "1\n"
        each.machine.resize_cpus(1)
        assert each.check(TROUBLE) == ""
    assert guest.check("nproc") == "2\n"


def test_a_clone_has_the_date_of_its_host(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    guest = boot()
    guest.machine.snapshot(str(tmp_path / "warm"))
    time.sleep(5)  # the time that the guest misses
    right, late = clone(tmp_path / "warm", guest), clone(tmp_path / "warm", guest, clock="resume")
    before = int(time.time())
    dates = [int(each.check("date +%s")) for each in (right, late)]
    assert before <= dates[0] <= int(time.time()) and dates[1] <= int(time.time()) - 4
    assert right.check(TROUBLE) == ""


def test_a_busy_clone_answers_an_hour_after_its_snapshot(
    boot: Boot, clone: MakeClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clocks go on by that hour, which is no CPU time of the task that ran then."""
    guest = boot()
    guest.check("(while :; do :; done) & (while :; do :; done) & true")
    then = int(guest.check("date +%s"))
    guest.machine.snapshot(str(tmp_path / "warm"))
    guest.machine.pause()
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
    late = clone(tmp_path / "warm", guest)
    assert int(late.check("date +%s")) >= then + 3600
    assert late.check(TROUBLE) == ""


def test_a_pause_counts_as_stolen_time(boot: Boot) -> None:
    """Linux would count it as CPU time of the task that ran, and other tasks would wait as long."""
    guest = boot()
    guest.check("(while :; do :; done) & (while :; do :; done) & true")
    hundredths = "awk '/^cpu /{print $9}' /proc/stat"
    before = int(guest.check(hundredths))
    guest.machine.pause()
    time.sleep(4)  # the length of the pause
    guest.machine.resume()
    assert int(guest.check(hundredths)) - before >= 400
    assert guest.check(TROUBLE) == ""


def test_clones_draw_other_random_numbers(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    guest = boot()
    draw = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid"
    guest.check(draw)
    guest.machine.snapshot(str(tmp_path / "warm"))
    clones = [clone(tmp_path / "warm", guest) for _ in range(2)]
    drawn = [each.check(draw) for each in (guest, *clones)]
    assert len(set(drawn)) == 3
    assert len({line for text in drawn for line in text.splitlines()}) == 6
    for each in clones:
        assert "virtual machine fork" in each.check("dmesg")


HOOK = """#!/bin/sh
echo "$PYVMM_GENERATION" >>/run/hooks
echo "a hook of $PYVMM_GENERATION"
"""


@pytest.mark.parametrize("way", ["restore", "fork"])
def test_hooks_run_once_in_each_copy(boot: Boot, guest_kernel: str, clone: MakeClone, tmp_path: Path, way: str) -> None:
    """By themselves, before anything is asked of the copy: the kernel notifies init."""
    if not has_event(guest_kernel):
        pytest.skip("this kernel does not notify programs (guest-kernel/patches/vmgenid)")
    hook, disk = tmp_path / "hook", tmp_path / "hooked.ext4"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    folder = "/etc/pyvmm/clone.d"
    (tmp_path / "note").write_text("not a program\n")
    added = [word for name in ("hook", "note") for word in ("--with", f"{tmp_path / name}:{folder}/{name}")]
    recipes.make("rootfs.py", *added, "--output", str(disk))
    guest = boot(rootfs=DiskConfig(str(disk), cow="overlay"))
    children: list[Child] = []
    if way == "restore":
        guest.machine.snapshot(str(tmp_path / "warm"))

    def copy(of: Guest) -> Guest:
        if way == "restore":
            return clone(tmp_path / "warm", of)
        children.append(Child(of))
        return children[-1]

    try:
        copies = [copy(guest) for _ in range(3)]
        for each in copies:
            each.expect("^a hook of [0-9a-f-]{36}$")
        everybody = [guest, *copies]
        words = [each.check("cat /run/pyvmm/generation") for each in everybody]
        assert len(set(words)) == len(words), "each has one of its own"
        assert guest.run("cat /run/hooks")[0] == 1, "the source is what it was"
        assert [each.check("cat /run/hooks") for each in copies] == words[1:]
        if way == "fork":
            second = copy(copies[0])
            second.expect("^a hook of [0-9a-f-]{36}$")
            assert second.check("cat /run/hooks") == words[1] + second.check("cat /run/pyvmm/generation")
            assert copies[0].check("cat /run/hooks") == words[1]
    finally:
        for child in children:
            child.close()


def test_a_diff_needs_its_base_until_it_is_merged(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    guest = boot()
    guest.machine.snapshot(str(tmp_path / "base"))
    guest.check("echo later >/tmp/later")
    guest.machine.snapshot(str(tmp_path / "diff"), base=str(tmp_path / "base"))
    small, large = ((tmp_path / name / "memory").stat().st_blocks * 512 for name in ("diff", "base"))
    assert small < large / 2
    first = clone(tmp_path / "diff", guest)
    assert first.check("cat /tmp/later") == "later\n"
    first.check("echo deeper >/tmp/deeper")
    first.machine.snapshot(str(tmp_path / "deep"), base=str(tmp_path / "diff"))
    second = clone(tmp_path / "deep", first)
    assert second.check("cat /tmp/later /tmp/deeper") == "later\ndeeper\n"
    whole.merge(str(tmp_path / "deep"))
    os.rename(tmp_path / "base", tmp_path / "gone")
    with pytest.raises(ConfigError, match="base"):
        Machine.restore(str(tmp_path / "diff"))
    third = clone(tmp_path / "deep", first)
    assert third.check("cat /tmp/later /tmp/deeper") == "later\ndeeper\n"


@pytest.mark.parametrize("seconds", [0.6, pytest.param(0.1, marks=pytest.mark.long)])  # more moments take two minutes
def test_a_snapshot_at_any_moment_of_a_boot(boot: Boot, clone: MakeClone, tmp_path: Path, seconds: float) -> None:
    guest = boot(cpus=2, shell=False)
    chance = random.Random(5)
    moments = 0
    while True:
        time.sleep(seconds + chance.random() * 0.6)
        guest.machine.pause()
        guest.drain()
        if PROMPT in guest.console:
            break
        guest.machine.snapshot(str(tmp_path / "warm"))
        each = clone(tmp_path / "warm", guest)
        each.start_shell()
        assert each.check(f"nproc; {HANGS}") == "2\n"
        each.close()
        guest.machine.resume()
        moments += 1
    guest.machine.resume()
    guest.start_shell()
    assert guest.check(HANGS) == ""
    assert moments


def test_a_vsock_listener_stays_and_connections_end(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    guest = boot(vsock=VsockConfig(cid=5, uds=str(tmp_path / "one.sock")))
    guest.check("ls /dev/vsock")
    guest.machine.snapshot(str(tmp_path / "warm"))
    each = clone(tmp_path / "warm", guest, vsock=VsockConfig(cid=6, uds=str(tmp_path / "two.sock")))
    assert each.check("cat /tmp/nothing 2>/dev/null || echo fine") == "fine\n"
    assert (tmp_path / "two.sock").is_socket()


@pytest.mark.parametrize(
    ("cpus", "transport", "cow"), [pytest.param(1, "mmio", "auto", marks=pytest.mark.long), (2, "pci", "overlay")]
)
def test_forks_go_on_alone(
    boot: Boot, guest_disk: Path, fresh_disk: Path, tmp_path: Path, cpus: int, transport: str, cow: str
) -> None:
    vsock = VsockConfig(uds=str(tmp_path / "0.sock"))
    root = DiskConfig(str(guest_disk if cow == "overlay" else fresh_disk), cow=cow)
    nets = (NetConfig("user"),)
    guest = boot(rootfs=root, cpus=cpus, transport=transport, nets=nets, vsock=vsock, disks=[programs_disk()])
    image = os.stat(guest_disk)
    guest.check(INSTALL_PROGRAMS)
    guest.check(
        "vsocktool serve stream 5000 echo >/tmp/serve 2>&1 & while ! grep -q listening /tmp/serve; do sleep 0.01; done"
    )
    sock = guest.machine.vsock.connect(5000, timeout=RUN_TIMEOUT)
    guest.check(f"ip link set eth0 up; echo nonce-$$ >/tmp/nonce; echo disk >/root/file; {CALM_TICK}")
    guest.check("until [ -s /tmp/tick ]; do :; done")
    before = int(guest.check("cat /tmp/tick"))
    first = Child(guest, vsock=VsockConfig(uds=str(tmp_path / "1.sock")))
    guest.check("echo later >/tmp/nonce2; echo 0 >/root/own; sync")
    prepare_fork(first)
    second = Child(first, vsock=VsockConfig(uds=str(tmp_path / "2.sock")))
    everybody = [guest, first, second]
    try:
        assert len({each.check("cat /tmp/nonce") for each in everybody}) == 1
        assert [each.run("cat /tmp/nonce2")[0] for each in everybody] == [0, 1, 1]
        assert [each.run("cat /root/own")[0] for each in everybody] == [0, 1, 1], "disks are of the moment, too"
        for number, each in enumerate(everybody):
            each.check(f"echo {number} >/root/own; echo {number} >/tmp/own; sync; echo 3 >/proc/sys/vm/drop_caches")
        for number, each in enumerate(everybody):
            assert each.check("cat /root/own /tmp/own /root/file") == f"{number}\n{number}\ndisk\n"
            tick = int(each.check("cat /tmp/tick"))
            assert tick >= before
            each.check(f"until [ $(cat /tmp/tick) -gt {tick} ]; do sleep 0.1; done")
            assert each.check("find /bin /etc -type f | head -50 | xargs cat >/dev/null; nproc") == f"{cpus}\n"
            assert each.check("cat /sys/class/net/eth0/carrier") == "1\n"
            assert each.check(TROUBLE) == ""
            with each.machine.vsock.connect(5000, timeout=RUN_TIMEOUT) as own:
                own.sendall(b"own")
                assert own.recv(10) == b"own", "its listener is still there"
        sock.sendall(b"before")
        assert sock.recv(10) == b"before", "the source's connection is"
        sock.close()
        assert len({each.check("head -c 16 /dev/urandom | md5sum") for each in everybody}) == 3
        guest.close()
        first.machine.snapshot(str(tmp_path / "warm"))
        for each in everybody[1:]:
            assert each.power_off().kind == "poweroff"
        written = subprocess.run(
            ["debugfs", "-R", "cat /root/own", tmp_path / "warm" / "disk0"], capture_output=True, text=True, check=True
        )
        assert written.stdout == "1\n", "a snapshot has what its machine has written"
        now = os.stat(guest_disk)
        assert (now.st_mtime_ns, now.st_blocks) == (image.st_mtime_ns, image.st_blocks), "nobody writes the image"
    finally:
        for each in everybody:
            each.close()


def test_clones_of_an_empty_share_have_directories_of_their_own(boot: Boot, clone: MakeClone, tmp_path: Path) -> None:
    def own(number: int) -> dict[str, str]:
        """Directories for both shares."""
        paths = {tag: tmp_path / f"{tag}{number}" for tag in ("a", "b")}
        for tag, path in paths.items():
            path.mkdir()
            if number:
                (path / "hello").write_text(f"{tag}{number}\n")
        return {tag: str(path) for tag, path in paths.items()}

    empty = own(0)
    shares = (
        ShareConfig(empty["a"], tag="a", isolation="process"),
        ShareConfig(empty["b"], tag="b", isolation="thread"),
    )
    guest = boot(shares=shares, cpus=2)
    guest.check("mkdir /tmp/a /tmp/b; mount -t virtiofs a /tmp/a; mount -t virtiofs b /tmp/b; ls /tmp/a /tmp/b")
    guest.machine.snapshot(str(tmp_path / "warm"))
    template_had = (tmp_path / "warm" / "memory").stat().st_blocks * 512
    clones: list[Guest] = [Child(guest, shares=own(1)), Child(guest, shares=own(2))]
    try:
        clones.append(clone(tmp_path / "warm", guest, shares=own(3)))
        for number, each in enumerate(clones, 1):
            assert each.check("cat /tmp/a/hello /tmp/b/hello") == f"a{number}\nb{number}\n"
            each.check(
                f"for i in a b; do echo {number} >/tmp/$i/own; mkdir /tmp/$i/folder; {COPY} of=/tmp/$i/folder/f; done"
            )
            each.check("exec 8>>/tmp/a/log 9>>/tmp/b/log; echo one >&8; echo one >&9")
        assert guest.check("ls /tmp/a /tmp/b; echo template >/tmp/a/own; cat /tmp/a/own").endswith("template\n")
        # What is open is open in a child, too; here in the same directory
        prepare_fork(clones[0])
        clones.append(Child(clones[0]))
        clones[-1].check("echo two >&8; echo two >&9; exec 8>&- 9>&-")
        sums = clones[-1].check(f"md5sum </tmp/a/folder/f; md5sum </tmp/b/folder/f; {COPY} | md5sum")
        assert len(set(sums.split())) == 2
        # They have what they have touched, of what the template had
        for each in clones:
            assert each.machine.memory.on_demand
            assert each.machine.memory.fill_stats()["filled"] < template_had // 2
        for tag in ("a", "b"):
            assert [(tmp_path / f"{tag}{n}" / "own").read_text() for n in (1, 2, 3)] == ["1\n", "2\n", "3\n"]
            assert [(tmp_path / f"{tag}{n}" / "log").read_text() for n in (1, 2)] == ["one\ntwo\n", "one\n"]
            assert (tmp_path / f"{tag}3" / "folder" / "f").stat().st_size == 128 << 10
        assert sorted(path.name for path in (tmp_path / "b0").iterdir()) == []
        for each in (*clones, guest):
            assert each.check(HANGS) == ""
        guest.check("exec 7>/tmp/a/gone; rm /tmp/a/gone")
        with pytest.raises(ConfigError, match=r"gone \(deleted\)"):
            guest.machine.fork()
        guest.check("exec 7>&-; true")
    finally:
        for each in clones:
            each.close()


# On PCI it does all of it and more; in a jail on MMIO a machine is forked below
@pytest.mark.parametrize("transport", [pytest.param("mmio", marks=pytest.mark.long), "pci"])
def test_a_machine_in_a_jail_is_saved_restored_and_reaches_the_host(
    guest_kernel: str, fresh_disk: Path, tmp_path: Path, transport: str
) -> None:
    """All that its guest and its control socket need goes by the processes outside; on PCI a share that comes later."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the share")
    late = tmp_path / "late"
    late.mkdir()
    (late / "file").write_text("from a share that came later")
    programs = programs_disk().path
    socket_path = str(tmp_path / "c")
    root, image = f"{fresh_disk},cow=overlay,overlay={tmp_path}/own", os.stat(fresh_disk)
    boot = ["--kernel", guest_kernel, "--rootfs", root, "--disk", f"{programs},ro,bps=1G", "--transport", transport]
    boot += ["--share", f"{shared},tag=s", "--vsock", f"cid=3,uds={tmp_path}/v", "--control", socket_path]
    ask_host = b"echo greeting | vsocktool cat stream 2 6000; echo st''atus $?\n"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/v_6000")
        listener.listen()

        def answer(command: Command) -> None:
            command.type(ask_host)
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"greeting\n", command.errors
                connection.sendall(b"ans" + b"wer\n")
            command.expect("^answer$")
            command.expect("^status 0$")

        command = Command(tmp_path, *boot, "--jail", "on", "--timeout", "300")
        try:
            command.expect(PROMPT)
            command.type(f"{INSTALL_PROGRAMS}; mount -t virtiofs s /mnt; echo in RAM >/tmp/file\n".encode())
            answer(command)
            ask(socket_path, "pause")
            ask(socket_path, "resume")
            ask(socket_path, "snapshot", path=str(tmp_path / "warm"), stop=True)
            assert command.wait() == 0, command.errors
        finally:
            command.close()
        command = Command(tmp_path, str(tmp_path / "warm"), "--control", socket_path, "--jail", "on", verb="restore")
        try:
            command.type(b"cat /tmp/file /mnt/file; echo; sync; echo do''ne\n")
            command.expect("^in RAM$")
            command.expect("^from the share$")
            answer(command)
            ask(socket_path, "snapshot", path=str(tmp_path / "again"), base=str(tmp_path / "warm"))
            whole.verify_snapshot(str(tmp_path / "again"))
            command.type(b"poweroff -f\n")
            assert command.wait() == 0, command.errors
        finally:
            command.close()
    # Without a control socket its threads have fewer system calls
    options = ["--control", socket_path, "--shares-from", str(tmp_path)] if transport == "pci" else []
    command = Command(tmp_path, str(tmp_path / "again"), "--jail", "on", *options, verb="restore")
    try:
        if options:
            command.type(b'echo goes" on"\n')
            command.expect("^goes on$")
            ask(socket_path, "add-share", share=f"{late},tag=late")
            command.type(b"echo 1 >/sys/bus/pci/rescan; mkdir /tmp/late; mount -t virtiofs late /tmp/late\n")
            command.type(b"cat /tmp/late/file; echo; echo from the guest >/tmp/late/own; sync\n")
            command.expect("^from a share that came later$")
        command.type(b"cat /tmp/file /mnt/file; echo; poweroff -f\n")
        command.expect("^from the share$")
        assert command.wait() == 0, command.errors
    finally:
        command.close()
    assert not command.leftovers()
    assert not options or (late / "own").read_text() == "from the guest\n"
    assert os.stat(fresh_disk).st_mtime_ns == image.st_mtime_ns, "nobody writes the image"


# The pause leaves the CPUs to others
CALLS = """n=nonce-$RANDOM$RANDOM; i=0; while :; do i=$((i+1)); echo 3 >/proc/sys/vm/drop_caches
r=$(head -c 16 /dev/urandom | md5sum | cut -c 1-32); all="$n $i $r $(cat /root/own) $(cat /mnt/file)"
a=$(echo $all | vsocktool cat stream 2 6000 2>/dev/null); [ -z "$a" ] || { echo $a >/root/own; sync; }; sleep 1; done
"""
"""A number in RAM, how often it has been told, a random one, and what is on the disk and in the share: a connection to
the host for each time.  What the host answers is written to the disk."""


class Called:
    """Who is called by the guest of a machine, at a port of its socket device."""

    def __init__(self, folder: Path, name: str, port: int = 6000) -> None:
        self.name = name
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/v{name}_{port}")
        self._listener.listen()
        self._listener.settimeout(240)

    def next(self) -> tuple[str, int, str, list[str]]:
        """What it is told next; it answers its name."""
        connection, _ = self._listener.accept()
        with connection, connection.makefile() as lines:
            nonce, times, drawn, *read = lines.readline().split()
            connection.sendall(f"of{self.name}\n".encode())
        return nonce, int(times), drawn, read

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(("transport", "share"), [pytest.param("mmio", False, marks=pytest.mark.long), ("pci", True)])
def test_a_machine_in_a_jail_is_forked(
    guest_kernel: str, fresh_disk: Path, tmp_path: Path, transport: str, share: bool
) -> None:
    """Into machines that go on where it was, with jails, disks, sockets and an identity of their own; a child is forked
    again."""
    image = os.stat(fresh_disk)
    path, root = str(tmp_path / "c"), f"{fresh_disk},cow=overlay"
    boot = [
        "--kernel",
        guest_kernel,
        "--rootfs",
        root,
        "--disk",
        f"{programs_disk().path},ro",
        "--transport",
        transport,
    ]
    boot += ["--vsock", f"cid=3,uds={tmp_path}/v", "--control", path, "--jail", "on", "--timeout", "600"]
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("from-the-share\n")
    boot += ["--share", f"{tmp_path}/shared,tag=s"] * share
    everybody = {name: Called(tmp_path, name) for name in ("", ".1", ".2", ".1.1")}
    command = Command(tmp_path, *boot)
    try:
        command.expect(PROMPT)
        mount = "mount -t virtiofs s /mnt" if share else "echo from-nobody >/mnt/file"
        command.type(f"{INSTALL_PROGRAMS}; {mount}; echo nobody >/root/own; sync\n".encode())
        command.type(b"cat >/tmp/program <<'END'\n" + CALLS.encode() + b"END\nsh /tmp/program & \n")
        first = everybody[""].next()
        found = {"": everybody[""].next()}
        assert (first[3][0], found[""][3][0]) == ("nobody", "of")
        done = subprocess.run([PYVMM, "fork", path, "-n", "2"], capture_output=True, text=True, timeout=240)
        assert (done.stdout.split(), done.stderr) == ([f"{path}.1", f"{path}.2"], ""), command.errors
        for name in (".1", ".2"):
            assert everybody[name].next()[3][0] == "of", "disks are of the moment"
            found[name] = everybody[name].next()
        assert ask(f"{path}.1", "fork")["children"] == [{"control": f"{path}.1.1", "vsock": f"{tmp_path}/v.1.1"}]
        assert everybody[".1.1"].next()[3][0] == "of.1"
        found = {name: each.next() for name, each in everybody.items()}
        for name, (nonce, times, _, read) in found.items():
            assert nonce == first[0] and times > first[1], "RAM is of the moment, too"
            assert read == [f"of{name}", "from-the-share" if share else "from-nobody"]
        assert len({drawn for _, _, drawn, _ in found.values()}) == 4, "they draw other random numbers"
        processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        vcpus = {
            pid: status
            for pid in processes
            for status in of_threads("status", pid).values()
            if "Name:\tvcpu0" in status
        }
        assert len(vcpus) == 4
        users = set()
        for pid in vcpus:
            for status in of_threads("status", pid).values():
                lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
                assert (lines["CapEff"], lines["CapPrm"], lines["CapBnd"]) == ("0" * 16,) * 3
                users.add(lines["Uid"].split()[0])
        assert len(users) == 4 and "0" not in users
        command.type(b"dmesg | grep -iE 'soft lockup|rcu.*stall|hung task|I/O error'; echo goes' 'on\n")
        command.expect("^goes on$")
        ask(f"{path}.1", "stop")
        assert everybody[".2"].next()[0] == first[0]
        command.type(b"poweroff -f\n")
        assert command.wait() == 0, command.errors
    finally:
        command.close()
        for each in everybody.values():
            each.close()
    assert not command.leftovers()
    assert sorted(name for name in os.listdir(tmp_path) if name[0] in "cv" and "_6000" not in name) == []
    assert os.stat(fresh_disk).st_mtime_ns == image.st_mtime_ns, "nobody writes the image"


RESETS = """rebind() { for d in /sys/bus/virtio/devices/virtio*; do
v=${d##*/}; driver=$(readlink -f $d/driver); [ -e $d/block/vda ] && continue
echo $v >$driver/unbind; echo $v >$driver/bind; done; }
i=0; while :; do i=$((i+1)); echo 3 >/proc/sys/vm/drop_caches
mount -t virtiofs s /mnt; (exec 3>/mnt/open-$i; while echo more >&3; do :; done) 2>/dev/null &
cat /dev/vd[b-z] >/dev/null & (while echo unread; do :; done | vsocktool cat stream 2 6001 >/dev/null 2>&1) &
head -c 65536 /dev/hwrng >/dev/null & while [ ! -s /mnt/open-$i ]; do :; done
rebind; umount -l /mnt; mount -t virtiofs s /mnt
echo nonce $i 0 $(cat /mnt/file) $(cat /dev/vd[b-z] | md5sum) | vsocktool cat stream 2 6000; umount /mnt; done
"""
"""A guest that takes all drivers from their devices but that of its root, while all have requests, and gives them back,
again and again; then all work."""


@pytest.mark.long  # minutes in the lab; tests/hostile/test_resets.py resets each device without a guest
@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_a_guest_resets_its_devices_in_a_jail(
    guest_kernel: str, fresh_disk: Path, tmp_path: Path, transport: str
) -> None:
    """Drivers that come and go under load, in a machine and in its children; Linux 6.12.118 resets all at the end."""
    path, root = str(tmp_path / "c"), f"{fresh_disk},cow=overlay"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("from-the-share\n")
    boot = ["--kernel", guest_kernel, "--rootfs", root, "--disk", f"{programs_disk().path},ro", "--balloon", "on"]
    boot += ["--share", f"{tmp_path}/shared,tag=s", "--transport", transport, "--control", path, "--jail", "on"]
    everybody = {name: Called(tmp_path, name) for name in ("", ".1", ".2")}
    unread = [Called(tmp_path, name, 6001) for name in everybody]
    command = Command(tmp_path, *boot, "--vsock", f"cid=3,uds={tmp_path}/v", "--timeout", "900")
    try:
        command.expect(PROMPT)
        command.type(f"{INSTALL_PROGRAMS}; cat >/tmp/program <<'END'\n{RESETS}END\nsh /tmp/program &\n".encode())
        found = [everybody[""].next() for _ in range(3)]
        assert [told[1] for told in found] == [1, 2, 3]
        assert len(ask(path, "fork", n=2)["children"]) == 2
        for name in everybody:
            found += [everybody[name].next() for _ in range(3)]
        assert {tuple(told[3]) for told in found} == {("from-the-share", *found[0][3][1:])}
        ask(f"{path}.1", "stop")
        command.type(b"kill $!; wait $!; dmesg | grep -iE 'soft lockup|rcu.*stall|hung task'; echo goes' 'on\n")
        command.expect("^goes on$")
        command.type(b"poweroff -f\n")
        assert command.wait() == 0, command.errors
    finally:
        command.close()
        for each in (*everybody.values(), *unread):
            each.close()
    assert "which is not on its list" not in command.errors
    assert not command.leftovers()


LEDGER = """while :; do :; done &
while :; do dd if=/dev/zero of=/root/fill bs=64k count=16 2>/dev/null; sync; done &
while :; do md5sum </mnt/read >/dev/null; done &
ip link set eth0 up; while :; do arping -c 1 -w 1 -I eth0 10.0.2.2 >/dev/null 2>&1 || sleep 0.2; done &
n=0; me=-; : >/root/log; while :; do n=$((n+1)); echo $n.$me >>/root/log; sync; echo $n.$me >>/mnt/log$me
a=$(echo $n $(wc -l </root/log) $(tail -n 30 /root/log) | vsocktool cat stream 2 6000 2>/dev/null)
[ -z "$a" ] || me=$a; done
"""
"""Writes a number to its disk and to the share, and then tells it, with the end of what is on the disk.  What the host
answers is its name from then on."""


class Ledger(Called):
    """What a guest that runs :data:`LEDGER` has told."""

    def next_entries(self) -> tuple[int, list[str]]:
        """The next number, and the last entries on the disk.

        A connection without a word is one that the guest has given up: a fork ended it, or its two seconds were over.
        """
        while not (told := self._told()):
            pass
        number, count, *entries = told
        assert number == count and [int(each.partition(".")[0]) for each in entries] == [
            int(number) - back for back in reversed(range(len(entries)))
        ], "nothing is lost"
        return int(number), entries

    def _told(self) -> list[str]:
        connection, _ = self._listener.accept()
        with connection, connection.makefile() as lines:
            told = lines.readline().split()
            if told:
                connection.sendall(f"{self.name}\n".encode())
        return told


def own_socket(sockets: list[VsockConfig], index: int) -> dict[str, Any]:
    """What a child has of its own."""
    return {"vsock": sockets[index]}


@pytest.mark.long  # a round takes minutes in the lab
@pytest.mark.parametrize("rounds", [1, *(pytest.param(5, id=f"five-{number}") for number in range(6))])
def test_forks_under_load_lose_nothing(boot: Boot, tmp_path: Path, rounds: int) -> None:
    """Eight at a time of a guest that uses its CPUs, disk, share, network and sockets: each goes on with all that was
    acknowledged before, and has nothing of another one."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "read").write_bytes(random.Random(5).randbytes(1 << 20))
    own = Ledger(tmp_path, "-source")
    guest = boot(
        cpus=2,
        nets=(NetConfig("user"),),
        vsock=VsockConfig(uds=f"{tmp_path}/v-source"),
        shares=(ShareConfig(str(shared), tag="s"),),
        disks=[programs_disk()],
    )
    guest.check(f"{INSTALL_PROGRAMS}; mount -t virtiofs s /mnt; cat >/tmp/program <<'END'\n{LEDGER}END\n")
    guest.check("sh /tmp/program >/dev/null 2>&1 &")
    last = own.next_entries()[0]
    for turn in range(rounds):
        while (told := own.next_entries())[1][-1] != f"{told[0]}.-source":
            pass
        last = told[0]
        ledgers = [Ledger(tmp_path, f"-{turn}-{index}") for index in range(8)]
        sockets = [VsockConfig(uds=f"{tmp_path}/v{ledger.name}") for ledger in ledgers]
        children = guest.machine.fork(8, each=partial(own_socket, sockets))
        try:
            for ledger in ledgers:
                number, before = ledger.next_entries()
                assert number >= last and {each.partition(".")[2] for each in before} <= {"-", "-source"}
                while (told := ledger.next_entries())[1][-1] != f"{told[0]}.{ledger.name}":
                    pass
                final, after = ledger.next_entries()
                names = {each.partition(".")[2] for each in after}
                assert final > told[0] > number and names <= {"-", "-source", ledger.name}, "nothing of another one"
                acknowledged = f"{final}.{ledger.name}"
                assert acknowledged in (shared / f"log{ledger.name}").read_text().split()
        finally:
            for child in children:
                child.close()
            for ledger in ledgers:
                ledger.close()
        number, entries = own.next_entries()
        assert number > last and {each.partition(".")[2] for each in entries} <= {"-", "-source"}
    assert guest.check(HANGS) == ""
    own.close()
