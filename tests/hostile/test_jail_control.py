"""The control socket of a jailed machine: its requests, and the privileges of the process that serves it."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import tiny
from tests.command import Command, links_of, not_for_a_jail
from tests.jail_processes import (
    AS_USER,
    children,
    in_pipes,
    machines,
    named,
    serves,
    soon_none,
    status_of,
    threads,
    wait_until_it_serves,
)
from tests.unit.test_hotplug import OBEDIENT
from tools.where import PYVMM
from vmm import DiskConfig, Machine, ShareConfig
from vmm.control.client import ask
from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.processes.jail import users
from vmm.processes.jail.restrict import CAPABILITIES
from vmm.saving import verify as whole

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Command]:
    """A machine in a jail, with a disk and a control socket "c"."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"d" * (1 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    command = Command(
        tmp_path, "--kernel", kernel, "--memory", "32M", "--disk", "../disk.img", "--control", f"{tmp_path}/c",
        "--json",
    )  # fmt: skip
    command.expect("hello")
    yield command
    command.close()


def test_a_machine_in_a_jail_does_what_its_control_socket_says(controlled: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    assert ask(path, "status")["state"] == "running"
    ask(path, "pause")
    with pytest.raises(ConfigError, match="that is paused"):
        ask(path, "pause")
    told: list[tuple[int, int]] = []
    ask(path, "snapshot", lambda done, size: told.append((done, size)), path=str(tmp_path / "warm"))
    assert told[-1] == (32 << 20, 32 << 20)
    ask(path, "resume")
    for _ in range(2):  # the second takes the place of the first
        ask(path, "snapshot", path=str(tmp_path / "diff"), base=str(tmp_path / "warm"))
    assert not [name for name in os.listdir(tmp_path) if ".pyvmm-" in name]
    ask(path, "snapshot", path=str(tmp_path / "more"), base=str(tmp_path / "diff"))
    with pytest.raises(HostError, match="cannot write"):
        ask(path, "snapshot", path=str(tmp_path / "missing" / "x"))
    ask(path, "snapshot", path=str(tmp_path / "last"), stop=True)
    assert controlled.wait() == 0
    for name in ("warm", "diff", "more", "last"):
        whole.verify_snapshot(str(tmp_path / name))
        assert (tmp_path / name / "disk0").read_bytes() == b"d" * (1 << 20)
    assert controlled.leftovers() == [] and not (tmp_path / "c").exists()
    command = Command(tmp_path, str(tmp_path / "diff"), "--control", path, "--jail", "on", verb="restore")
    command.type(b"x")
    command.expect("x")
    ask(path, "stop")
    assert command.wait() == 20


def test_a_machine_that_does_not_stop_is_killed(controlled: Command, tmp_path: Path) -> None:
    ask(str(tmp_path / "c"), "status")
    os.kill(controlled.process.pid, signal.SIGSTOP)
    ask(str(tmp_path / "c"), "stop")
    assert controlled.wait() == 137
    assert soon_none(controlled.leftovers) == []


@pytest.mark.parametrize("jail", ["on", "off"])
def test_a_machine_gets_vcpus_and_memory(tmp_path: Path, jail: str) -> None:
    kernel, control = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO), f"{tmp_path}/c"
    more = ["--max-cpus", "3", "--hotplug-memory", "size=128M", "--control", control, "--jail", jail, "--json"]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *more)

    def resize(*arguments: str) -> str:
        tool = [sys.executable, str(PYVMM), "resize", control, *arguments]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 2)
        return "" if done.returncode == 0 else done.stderr

    try:
        command.expect("hello")
        assert resize("--cpus", "3") == ""
        assert ask(control, "status")["cpus"] == 3
        deadline = time.monotonic() + 60
        while sum(status["Name"].startswith("vcpu") for status in threads(command.process.pid)) != 3:
            assert time.monotonic() < deadline, "each vCPU has a thread, which gives itself its name"
            time.sleep(0.01)
        assert resize("96M", "--cpus", "2") == ""
        assert ask(control, "status")["cpus"] == 2
        assert "not 1 to 3" in resize("--cpus", "4")
        assert "give SIZE" in resize() and "'many'" in resize("--cpus", "many") and "not 0 to" in resize("1G")
        command.type(b"x")
        command.expect("x")
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()
    assert command.leftovers() == [] and "system call" not in command.errors


def test_the_machine_has_nothing_of_its_control_socket(controlled: Command, tmp_path: Path) -> None:
    ask(str(tmp_path / "c"), "status")
    for status in threads(controlled.process.pid):
        assert int(status["Uid"].split()[0]) >= users.FIRST and status["CapEff"] == "0" * 16, status["Name"]
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    sockets = {f"socket:[{line[6]}]" for line in lines if line[-1] == f"{tmp_path}/c"}
    fds = set(links_of(controlled.process.pid).values())
    assert sockets and not sockets & fds
    (server,) = children(controlled.process.pid)
    status = status_of(Path(f"/proc/{server}"))
    kept = ("dac_override", "dac_read_search", "fowner", "kill")
    assert int(status["CapEff"], 16) == sum(1 << CAPABILITIES.index(name) for name in kept)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Seccomp_filters"] == "3", "what is never made, no programs, and its list, since somebody has asked"
    links = links_of(server).values()
    assert not [link for link in links if "kvm" in link or "memfd" in link or "disk" in link]


def machine_with_disks(folder: Path, *options: str, code: bytes = OBEDIENT) -> Command:
    """One on PCI with a control socket "c", which takes disks below "disks"."""
    (folder / "disks").mkdir()
    (folder / "disks" / "a.img").write_bytes(bytes(1 << 20))
    kernel = tiny.make(folder, tiny.say("hello\n"), code)
    where = ["--control", f"{folder}/c", "--disks-from", f"{folder}/disks"]
    command = Command(folder, "--kernel", kernel, "--memory", "32M", "--transport", "pci", *where, *options, "--json")
    command.expect("hello")
    return command


@pytest.mark.parametrize("jail", ["on", "off"])
def test_disks_come_from_where_the_user_said_and_go(tmp_path: Path, jail: str) -> None:
    command, control, disks = machine_with_disks(tmp_path, "--jail", jail), f"{tmp_path}/c", tmp_path / "disks"
    (tmp_path / "other.img").write_bytes(bytes(4096))
    (disks / "link").symlink_to(tmp_path / "other.img")
    (disks / "way").symlink_to(tmp_path)
    os.mkfifo(disks / "fifo")
    (disks / "below").mkdir()
    shutil.copy(disks / "a.img", disks / "below" / "b,b.img")
    wrong = {
        f"{tmp_path}/other.img": "not below", "a.img": "not below", f"{disks}": "not below", f"{disks}/": "not below",
        f"{disks}/../other.img": "not below", f"{disks}/./a.img": "not below", f"{disks}//a.img": "not below",
        f"{disks}/link": "symbolic links", f"{disks}/way/other.img": "Not a directory", f"{disks}/none": "No such file",
        f"{disks}/below": "directory", f"{disks}/fifo": "neither a file", f"{disks}/a.img,cow=overlay": "no overlay",
        f"{disks}/a.img,colour=red": "colour", f"{disks}/a.img\0": "no path can have",
    }  # fmt: skip
    server = children(command.process.pid)
    pids = [command.process.pid, *server]
    try:
        for number in range(35):
            for text, what in wrong.items() if number in (0, 20) else ():
                with pytest.raises(ConfigError, match=what):
                    ask(control, "add-disk", disk=text)
            options = ["", ",ro", ",ro,direct", ",bps=1M,queues=2", ",cache=writethrough"][number % 5]
            ask(control, "add-disk", disk=f"{disks}/a.img{options}")
            assert ask(control, "status")["devices"][-1] == f"disk {disks}/a.img"
            for more in ("", ",ro"):
                with pytest.raises(ConfigError, match="was added already"):
                    ask(control, "add-disk", disk=f"{disks}/a.img{more}")
            assert ask(control, "remove-disk", path=f"{disks}/a.img") == {"removed": True}
            with pytest.raises(ConfigError, match="was not added"):
                ask(control, "remove-disk", path=f"{disks}/a.img")
            if number == 0:
                before = {pid: len(links_of(pid)) for pid in pids}
        # That of an answer is closed when it is read
        assert soon_none(lambda: [str(pid) for pid in pids if len(links_of(pid)) > before[pid]]) == []
        tool = [sys.executable, str(PYVMM), "disk"]
        added = disks / "below" / "b,b.img"
        for size, word, file in (
            (1 << 20, "add", "below/b,,b.img,serial=b"), ((1 << 20) + 5, "resize", "below/b,b.img"),
            (3 << 20, "resize", "below/b,b.img"), (3 << 20, "remove", "below/b,b.img"),
        ):  # fmt: skip
            os.truncate(added, size)
            done = subprocess.run([*tool, word, control, file], cwd=disks, capture_output=True, text=True, timeout=60)
            what = "not a multiple of 512" if size % 512 else ""
            assert done.returncode == (2 if what else 0) and what in done.stderr, "it has looked at the file"
        with pytest.raises(ConfigError, match="does not have it"):
            ask(control, "resize-disk", path=f"{disks}/a.img")
        if jail == "on":
            assert not [link for link in links_of(command.process.pid).values() if str(disks) in link]
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()


@pytest.mark.parametrize("jail", ["on", "off"])
def test_a_disk_that_the_guest_keeps(tmp_path: Path, jail: str) -> None:
    """`--force` removes a disk that the guest does not release. A waiting client does not delay the machine's end."""
    command = machine_with_disks(tmp_path, "--jail", jail, code=tiny.SPIN)
    control, path = f"{tmp_path}/c", f"{tmp_path}/disks/a.img"
    tool = [sys.executable, str(PYVMM), "disk", "remove", control, path, "--timeout", "0"]
    try:
        ask(control, "add-disk", disk=path)
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "has not released it" in done.stderr and "--force" in done.stderr
        assert ask(control, "remove-disk", path=path, seconds=0, force=True) == {"removed": True}
        ask(control, "add-disk", disk=path)
        with pytest.raises(ConfigError, match="seconds is not 0 to"):
            ask(control, "remove-disk", path=path, seconds=-1)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(ask, control, "remove-disk", path=path, seconds=3600)
            time.sleep(0.2)  # no answer may come
            assert not waits.done()
            ask(control, "stop")
            assert command.wait() == 20
            error = waits.exception(60)
            assert "ended before it answered" in str(error) if error else waits.result() == {"removed": False}
    finally:
        command.close()


def check_starter(server: int) -> None:
    """A child of the control process starts the servers of shares, with the privileges that this needs."""
    (starter,) = named(children(server), "pyvmm-shares")
    status = status_of(Path(f"/proc/{starter}"))
    # What servers keep, and for what they do first: their namespaces, and giving up the rest
    kept = {"chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "setfcap", "dac_read_search"}
    kept |= {"sys_admin", "setpcap"}
    mask = sum(1 << CAPABILITIES.index(name) for name in kept)
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {mask}
    assert (status["CapInh"], status["CapAmb"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2"), (
        "what is never made, and its list"
    )
    limits = Path(f"/proc/{starter}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M) and re.search(r"^Max open files +64 ", limits, re.M)
    assert os.stat(f"/proc/{starter}/mem").st_uid == 0
    for name in ("ipc", "uts"):
        assert os.readlink(f"/proc/{starter}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


@pytest.mark.parametrize("verb", ["boot", "restore"])
@pytest.mark.parametrize("jail", ["on", "off"])
def test_shares_come_from_where_the_user_said_and_go(tmp_path: Path, jail: str, verb: str) -> None:
    """In a jail a third process starts the server of each, which the one that serves the socket may not."""
    shares, control = tmp_path / "shares", f"{tmp_path}/c"
    (shares / "below" / "b,b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (shares / "link").symlink_to(tmp_path / "other")
    (shares / "file").touch()
    kernel = tiny.make(tmp_path, OBEDIENT)
    first = ["--kernel", kernel, "--memory", "32M", "--transport", "pci", "--share", f"{tmp_path}/other"]
    if verb == "restore":
        first = [str(tmp_path / "warm")]
        config = replace(tiny.config(kernel), shares=(ShareConfig(f"{tmp_path}/other"),), transport="pci")
        with Machine(config) as saved:
            saved.start()
            saved.snapshot(first[0])
    where = ["--control", control, "--shares-from", str(shares)]
    command = Command(tmp_path, *first, *where, "--jail", jail, "--json", verb=verb)
    wrong = {
        f"{tmp_path}/other": "not below", str(shares): "not below", f"{shares}/../other": "not below",
        f"{shares}/link": "Not a directory|symbolic links", f"{shares}/file": "Not a directory",
        f"{shares}/none": "No such file", f"{shares}/below,tag=share": "of that tag",
        f"{shares}/below,dax=2M": "window", f"{shares}/below,colour=red": "colour",
    }  # fmt: skip
    try:
        wait_until_it_serves(control, command)
        for number in range(6):
            for text, what in wrong.items() if number in (0, 5) else ():
                with pytest.raises(ConfigError, match=what):
                    ask(control, "add-share", share=text)
            options, tag = [("", "share1"), (",ro,tag=data,cache=none", "data")][number % 2]
            assert ask(control, "add-share", share=f"{shares}/below{options}") == {"tag": tag}
            assert ask(control, "status")["devices"][-1] == f"share {tag}"
            with pytest.raises(ConfigError, match="the machine has it"):
                ask(control, "add-share", share=f"{shares}/below")
            assert ask(control, "add-share", share=f"{shares}/below/b,,b,queues=2") == {
                "tag": ["share2", "share1"][number % 2]
            }
            for path in ("below", "below/b,b"):
                assert ask(control, "remove-share", path=f"{shares}/{path}") == {"removed": True}
            with pytest.raises(ConfigError, match="was not added"):
                ask(control, "remove-share", path=f"{shares}/below")
            pids = [command.process.pid, *children(command.process.pid)]
            if number == 0:
                before = {pid: len(links_of(pid)) for pid in pids}
        assert {*pids} == {*before}, "no server is left"
        if jail == "on":
            check_starter(pids[1])
        assert soon_none(lambda: [str(pid) for pid in pids if len(links_of(pid)) > before[pid]]) == []
        tool = [sys.executable, str(PYVMM), "share"]
        for word, folder, text in (("add", "below/b,,b,ro", "share1\n"), ("remove", "below/b,b", "")):
            done = subprocess.run(
                [*tool, word, control, folder], cwd=shares, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stdout) == (0, text), done.stderr
        if jail == "on":
            assert not [link for link in links_of(command.process.pid).values() if str(shares) in link]
        ask(control, "add-share", share=f"{shares}/below")
        ask(control, "stop")
        assert command.wait() == 20
        assert soon_none(lambda: [pid for pid in map(str, pids) if Path(f"/proc/{pid}").exists()]) == []
    finally:
        command.close()


def test_shares_come_for_an_ordinary_user(tmp_path: Path) -> None:
    """The process that starts the servers has no privileges; each server has its own user and PID namespace."""
    node = tmp_path / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    with tempfile.TemporaryDirectory() as name:
        folder, control = Path(name), f"{name}/c"
        kernel = tiny.make(folder, OBEDIENT)
        (folder / "shares" / "a").mkdir(parents=True)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 1000, 1000)
        boot = [sys.executable, str(PYVMM), "boot", "--kernel", kernel, "--memory", "32M", "--transport", "pci"]
        boot += ["--control", control, "--shares-from", f"{folder}/shares", "--jail", "on"]
        command = ["unshare", "--mount", "sh", "-e", "-c", AS_USER, "sh", str(node), *boot]
        with subprocess.Popen(
            command, cwd=folder, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                while process.poll() is None and not serves(control):
                    time.sleep(0.01)
                assert ask(control, "fork")["children"] == [{"control": f"{control}.1", "vsock": ""}]
                (child,) = machines(process.pid)
                for pid in (process.pid, child):
                    assert {each["CapEff"] for each in threads(pid)} == {"0" * 16} and os.listdir(
                        f"/proc/{pid}/root"
                    ) == []
                check_users_starter(process.pid, control, f"{folder}/shares/a")
                ask(control, "stop")
                assert process.wait(60) == 20, process.communicate()[1]
            finally:
                process.kill()


@pytest.mark.parametrize("uid", [0, 1000], ids=["root", "user"])
def test_disks_that_come_make_no_file_larger_than_they_are(uid: int) -> None:
    """A compromised machine cannot fill a file system through a disk: the control process raises the limit only to the
    size of a disk that is plugged in or grows."""
    with tempfile.TemporaryDirectory() as name:
        folder, disks = Path(name), f"{name}/disks"
        os.mkdir(disks)
        for which, size in (("small", 1 << 20), ("large", 100 << 20), ("unwritten", 200 << 20)):
            Path(disks, which).touch()
            os.truncate(f"{disks}/{which}", size)
        options = ["--kernel", tiny.make(folder, OBEDIENT), "--transport", "pci", "--disks-from", disks]
        with in_pipes(folder, uid, *options) as pid:

            def most() -> str:
                limits = Path(f"/proc/{pid}/limits").read_text()
                return next(line.split()[3] for line in limits.splitlines() if line.startswith("Max file size"))

            assert most() == str(64 << 20), "as without the option: what a snapshot may need"
            for disk, size in (("small", 64), ("unwritten,ro", 64), ("large", 100)):
                ask(f"{folder}/c", "add-disk", disk=f"{disks}/{disk}")
                assert most() == str(size << 20)
            os.truncate(f"{disks}/small", 120 << 20)
            ask(f"{folder}/c", "resize-disk", path=f"{disks}/small")
            assert most() == str(120 << 20)


def test_the_descriptors_in_the_jail_of_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("file", "other"):
            (folder / each).write_bytes(bytes(2 << 20))
        kernel = tiny.make(folder, OBEDIENT)
        with in_pipes(folder, 1000, "--kernel", kernel, "--disk", f"{name}/file", "--pmem", f"{name}/other,ro") as pid:
            assert not_for_a_jail(pid, folder, {f"{name}/file"}) == []


@pytest.mark.parametrize("options", ["", "--cow overlay", "--cow copy", "--prefetch"])
def test_the_descriptors_in_the_jail_of_a_clone(tmp_path: Path, options: str) -> None:
    """Its template's memory is open for reading, and so is the disk of it that others have, too."""
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    config = tiny.config(tiny.make(tmp_path, OBEDIENT))
    with Machine(replace(config, disks=(DiskConfig(str(tmp_path / "file")),))) as saved:
        saved.start()
        saved.snapshot(str(tmp_path / "warm"))
    words = [str(tmp_path / "warm"), "--control", f"{tmp_path}/c", *options.split(), "--jail"]
    for jail in ("off", "on") if options == "--prefetch" else ("on",):  # the first one records
        command = Command(tmp_path, *words, jail, verb="restore")
        try:
            wait_until_it_serves(f"{tmp_path}/c", command)
            assert jail == "off" or not_for_a_jail(command.process.pid, tmp_path, set()) == []
            ask(f"{tmp_path}/c", "stop")
            assert command.wait() == 20
        finally:
            command.close()


def check_users_starter(machine: int, control: str, share: str) -> None:
    ask(control, "add-share", share=share)
    (server,) = children(machine)
    (starter,) = named(children(server), "pyvmm-shares")
    (fsd,) = children(starter)
    for pid, filters in ((starter, "2"), (fsd, "3")):  # what is never made, and their lists
        status = status_of(Path(f"/proc/{pid}"))
        assert (status["CapEff"], status["CapPrm"]) == ("0" * 16, "0" * 16)
        assert (status["NoNewPrivs"], status["Seccomp_filters"]) == ("1", filters)
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "not dumpable"
    assert len(status["NSpid"].split()) == 2
    namespaces = [os.readlink(f"/proc/{pid}/ns/user") for pid in (starter, fsd)]
    assert namespaces[0] != namespaces[1]


def test_a_clone_of_a_machine_that_took_no_shares_gets_one(tmp_path: Path) -> None:
    """Its memory can be shared, which that of its template could not."""
    control, kernel = f"{tmp_path}/c", tiny.make(tmp_path, OBEDIENT)
    with Machine(replace(tiny.config(kernel), transport="pci")) as saved:
        saved.start()
        saved.snapshot(str(tmp_path / "warm"))
    (tmp_path / "below").mkdir()
    options = ["--control", control, "--shares-from", str(tmp_path), "--jail", "on", "--json"]
    command = Command(tmp_path, str(tmp_path / "warm"), *options, verb="restore")
    try:
        wait_until_it_serves(control, command)
        assert ask(control, "add-share", share=f"{tmp_path}/below") == {"tag": "share"}
        assert ask(control, "remove-share", path=f"{tmp_path}/below") == {"removed": True}
        ask(control, "stop")
        assert command.wait() == 20
    finally:
        command.close()


def test_a_machine_that_was_told_nothing_takes_no_disk(controlled: Command, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accepts no disks") as caught:
        ask(f"{tmp_path}/c", "add-disk", disk=f"{tmp_path}/disk.img")
    assert "--disks-from" in caught.value.hint
    assert ask(f"{tmp_path}/c", "status")["state"] == "running"
    kernel, control = str(tmp_path / "tiny.elf"), ["--control", f"{tmp_path}/d"]
    for options, text in (
        (["--transport", "pci"], "give --control"),
        (control, "--transport pci"),
        ([*control, "--transport", "pci", "--disks-from", f"{tmp_path}/none"], "No such file"),
        ([*control, "--transport", "pci", "--disks-from", kernel], "Not a directory"),
    ):
        command = [sys.executable, str(PYVMM), "boot", "--kernel", kernel, "--disks-from", str(tmp_path), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("which", ["machine", "server"])
def test_neither_outlives_the_other(controlled: Command, tmp_path: Path, which: str) -> None:
    (server,) = children(controlled.process.pid)
    pidfd = os.pidfd_open(server)
    os.kill(controlled.process.pid if which == "machine" else server, signal.SIGKILL)
    assert controlled.wait() == (137 if which == "machine" else 1)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    if which == "machine":
        assert not (tmp_path / "c").exists()
    else:
        assert json.loads(controlled.errors)["detail"] == "the process of its control socket has ended"
