"""pyvmm-oci with real machines: what a container sees, its life, its network, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle import policy
from pyvmm_kata.host.mounts import TAG
from tests.guest.kata_tools import (
    BIN,
    PATIENCE,
    ROOT,
    VICTIMS,
    Oci,
    check_jail,
    eventually,
    kill_all,
    leftovers,
    members,
)
from tests.scripts import WAIT

CYCLES = int(os.environ.get("PYVMM_TEST_CYCLES", "1"))
KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "4"))
LONGEST = {"create": 4.0, "start": 1.5, "run": 5.0, "exec": 3.0, "delete": 2.0}
"""Seconds; commands take about so long in the lab."""
NO_STDIO: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("oci"))
    yield made
    made.close()


def test_what_a_container_sees(oci: Oci) -> None:
    (oci.folder / "data").mkdir()
    (oci.folder / "data" / "file").write_text("content\n")
    (oci.folder / "work").mkdir()
    volumes = [
        {"destination": "/data", "type": "bind", "source": str(oci.folder / "data"), "options": ["rbind", "ro"]},
        {"destination": "/work", "type": "bind", "source": str(oci.folder / "work"), "options": ["rbind"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
    ]
    script = """
    cat; echo to stderr >&2; cat /data/file; hostname
    touch /data/new 2>/dev/null || echo volume is read-only
    echo made >/work/made; echo x >/scratch/x && cat /scratch/x
    touch /new 2>/dev/null || echo root is read-only
    (echo 1 >/proc/sys/kernel/panic) 2>/dev/null || echo sys is read-only
    cat /proc/keys | wc -c
    cat /proc/sys/net/ipv4/ping_group_range /proc/version
    echo $$; exit 3"""
    bundle = oci.bundle(
        script,
        mounts=volumes,
        root={"path": str(oci.rootfs), "readonly": True},
        hostname="inside",
        linux__sysctl={"net.ipv4.ping_group_range": "5 7"},
    )
    config = json.loads(Path(bundle, "config.json").read_text())
    done = oci.run("run", "--bundle", bundle, "c1", text="typed\n")
    lines = done.stdout.splitlines()
    assert done.returncode == 3, done.stderr
    assert done.stderr == "to stderr\n"
    assert lines[:6] == ["typed", "content", "inside", "volume is read-only", "x", "root is read-only"]
    assert lines[6:9] == ["sys is read-only", "0", "5\t7"], config["linux"]["maskedPaths"]
    assert lines[9] != Path("/proc/version").read_text().strip(), "its kernel is its own"
    assert lines[10] == "1"
    assert (oci.folder / "work" / "made").read_text() == "made\n"
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_life(oci: Oci) -> None:
    oci.start("c1", f"trap 'exit 9' TERM; {WAIT}")
    assert oci.state("c1")["status"] == "running"
    monitor = json.loads((oci.root / "c1" / "state.json").read_text())["monitor"]
    status = Path(f"/proc/{monitor}/status").read_text().split()
    held, filters = int(status[status.index("CapEff:") + 1], 16), int(status[status.index("Seccomp_filters:") + 1])
    assert held.bit_count() == 7 and not held & 1 << 7 and filters >= 2, "neither CAP_SETUID nor calls without a list"
    check_jail(monitor)
    assert oci.check("exec", "c1", "cat", "/proc/sys/kernel/panic_on_oops") == "1\n"
    done = oci.run("exec", "c1", "sh", "-c", "cat; echo of exec >&2; exit 4", text="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (4, "typed\n", "of exec\n")
    assert "not found" in oci.run("exec", "c1", "nosuch").stderr
    assert 0 < len(json.loads(oci.check("ps", "--format", "json", "c1"))) < 10
    oci.check("update", "--pids-limit", "50", "--memory", "100M", "c1")
    stats = json.loads(oci.check("events", "--stats", "c1"))["data"]
    assert stats["memory"]["usage"]["limit"] == 100 << 20
    assert 0 < stats["pids"]["current"] < 10
    page = oci.check("metrics")
    lines = (
        *('sandbox_up{sandbox_id="c1",kind="oci"} 1', 'sandbox_guest_up{sandbox_id="c1"} 1'),
        *('sandbox_vcpu_events_total{sandbox_id="c1",vcpu="0",event="exits"}', 'sandbox_vcpus{sandbox_id="c1"} 1'),
        'container_memory_limit_bytes{sandbox_id="c1",container_id="c1"} 104857600\n',
    )
    assert all(f"pyvmm_{line}" in page for line in lines), page
    assert re.search(
        r'pyvmm_sandbox_device_events{sandbox_id="c1",device="\d",name="vsock 3",event="from_guest_bytes"} [1-9]', page
    ), page
    assert oci.check("exec", "--tty", "c1", "tty").startswith("/dev/pts/")
    oci.check("pause", "c1")
    assert oci.state("c1")["status"] == "paused"
    oci.check("resume", "c1")
    pid = oci.state("c1")["pid"]
    oci.check("kill", "c1", "TERM")
    eventually(lambda: oci.state("c1")["status"] == "stopped", "it does not end")
    eventually(lambda: not os.path.exists(f"/proc/{pid}/root"), "its monitor does not end")
    oci.check("delete", "c1")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def file_servers() -> set[int]:
    """The pids of all programs that serve shared directories."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_text() == "pyvmm-fsd\n":
                found.add(int(path.parent.name))
    return found


def test_a_pause_ends_when_the_file_server_has_answered(oci: Oci) -> None:
    """The test stops the server in the middle of a request. What is copied of a paused container does not change."""
    log = oci.rootfs / "log"
    others = file_servers()
    oci.start("c1", "while :; do echo x >>/log; done")
    eventually(lambda: log.exists() and log.stat().st_size > 0, "it does not write")
    servers = file_servers() - others
    assert servers
    try:
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
        size = -1
        while (now := log.stat().st_size) != size:
            size = now
            time.sleep(1)  # the guest may be between two of its requests
        with subprocess.Popen(oci.command("pause", "c1")) as pause:
            with pytest.raises(subprocess.TimeoutExpired):
                pause.wait(5)  # no event reports that it still waits; half of what the agent waits for
            for pid in servers:
                os.kill(pid, signal.SIGCONT)
            assert pause.wait(PATIENCE) == 0
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGCONT)
    size = log.stat().st_size
    assert oci.state("c1")["status"] == "paused"
    assert log.stat().st_size == size
    oci.check("resume", "c1")
    eventually(lambda: log.stat().st_size > size, "it does not continue")
    oci.check("delete", "--force", "c1")
    log.unlink()
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_machine_grows_with_a_limit(oci: Oci) -> None:
    kept = oci.settings.read_text()
    oci.settings.write_text(f'{kept}more_memory = "512M"\n')
    big = {"destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": ["size=256m"]}
    try:
        oci.start("c1", "sleep 600", mounts=[big], linux__resources={"memory": {"limit": 64 << 20}})
    finally:
        oci.settings.write_text(kept)

    def total() -> int:
        return int(oci.check("exec", "c1", "awk", "/MemTotal/ {print $2}", "/proc/meminfo")) >> 10

    def machine() -> int:
        """MiB that its process has."""
        monitor = json.loads((oci.root / "c1" / "state.json").read_text())["monitor"]
        children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
        sizes = [re.findall(r"RssShmem:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in children]
        return max(int(size[0]) for size in sizes if size) >> 10

    first = total()
    oci.check("update", "--memory", "320M", "c1")
    assert total() >= first + 200
    oci.check("exec", "c1", "dd", "if=/dev/zero", "of=/big/f", "bs=1M", "count=160")
    full = machine()
    assert full >= 160
    oci.check("exec", "c1", "rm", "/big/f")
    oci.check("update", "--memory", "64M", "c1")
    eventually(lambda: machine() < full - 80, "the host does not get it back")
    assert oci.check("exec", "c1", "cat", "/sys/fs/cgroup/memory.max") == f"{64 << 20}\n"
    oci.check("delete", "--force", "c1")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_policy_holds_in_the_guest(oci: Oci, tmp_path: Path) -> None:
    """Whoever asks: the agent refuses it, and serves the rest."""
    rules = "".join(f"default {name}Request := {str(name != 'ExecProcess').lower()}\n" for name in policy.SERVED)
    (tmp_path / "no-exec.rego").write_text(f"package agent_policy\n{rules}")
    settings = tmp_path / "kata.toml"
    settings.write_text(f'{oci.settings.read_text()}policy = "no-exec.rego"\n')
    with open(tmp_path / "out", "wb") as out:
        bundle = oci.bundle(f"trap 'echo served; exit 5' TERM; {WAIT}")
        command = oci.command("--config", str(settings), "create", "--bundle", bundle, "c1")
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE, check=True)
    oci.check("start", "c1")
    done = oci.run("exec", "c1", "true")
    assert done.returncode and f"ExecProcessRequest is blocked by the policy {tmp_path}/no-exec.rego" in done.stderr
    assert json.loads(oci.check("events", "--stats", "c1"))["data"]["pids"]["current"] > 0
    oci.check("kill", "c1", "TERM")
    eventually(lambda: oci.state("c1")["status"] == "stopped", "it does not end")
    assert (tmp_path / "out").read_text() == "served\n"
    oci.check("delete", "c1")


def test_debugging_tells_what_the_machine_and_its_guest_did(oci: Oci, tmp_path: Path) -> None:
    log = tmp_path / "log"
    oci.check("--debug", "--log", str(log), "--log-format", "json", "run", "--bundle", oci.bundle("exit 0"), "c1")
    times = {note["msg"]: note["monotonic"] for note in map(json.loads, log.read_text().splitlines())}
    steps = ("command", "machine: made", "machine: first-run", "connected", "container", "closed", "deleted")
    assert [times[step] for step in steps] == sorted(times[step] for step in steps)
    (took,) = [message for message in times if message.startswith("guest: agent: ")]
    from_start = int(took.split()[2]) / 1e9
    assert times["machine: first-run"] < times["connected"] - from_start < times["connected"]


def test_a_guest_that_panics(oci: Oci) -> None:
    """Its container is lost, and whoever started it reads what the kernel died of."""
    bundle = oci.bundle("echo c >/proc/sysrq-trigger; sleep 600", linux__readonlyPaths=[])
    done = oci.run("run", "--bundle", bundle, "c1")
    assert done.returncode == 255, done.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


class Templates:
    """pyvmm-oci with templates, which it keeps in a folder of their own."""

    def __init__(self, oci: Oci, folder: Path) -> None:
        self.oci = oci
        self.settings = folder / "kata.toml"
        self.settings.write_text(oci.settings.read_text() + 'template = "auto"\nmemory = "192M"\n')
        self.cache = folder / "cache"
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        self._options = ["--config", str(self.settings)]
        self._log = folder / "log"

    def with_pool(self, number: int) -> list[str]:
        """The options of a command that has its machines from a pool of so many."""
        settings = self.cache.with_name("pool.toml")
        settings.write_text(f"{self.settings.read_text()}pool = {number}\n")
        return ["--config", str(settings)]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.oci.command(*self._options, *words), env=self.environment)

    def create(self, script: str, **more: Any) -> str:
        """Make c1 and start it; what the log says of its machine."""
        self._log.write_text("")
        words = ["--debug", "--log", str(self._log), "create", "--bundle", self.oci.bundle(script, **more), "c1"]
        command = self.oci.command(*self._options, *words)
        done = subprocess.run(command, timeout=PATIENCE, env=self.environment, **NO_STDIO)
        assert done.returncode == 0, self._log.read_text()
        self.call("start", "c1")
        return self._log.read_text()

    def call(self, *words: str) -> str:
        # `--debug` is a word on the kernel's command line, and so of another template
        command = [*self.oci.command(*self._options, "--debug", "--log", str(self._log)), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, script: str, **more: Any) -> tuple[list[str], str]:
        """The lines that a container prints, and what the log says of its machine."""
        self._log.write_text("")
        return self.call("run", "--bundle", self.oci.bundle(script, **more), "c1").splitlines(), self._log.read_text()

    def wait_for_one(self) -> None:
        def is_made() -> bool:
            time.sleep(3)  # what makes it has the CPU when nobody else wants it
            return " good" in self.call("template", "list")

        eventually(is_made, "no template is made in the background")


@pytest.fixture
def templates(oci: Oci, tmp_path: Path) -> Templates:
    return Templates(oci, tmp_path)


def test_clones_of_a_template_have_all_that_is_theirs(oci: Oci, templates: Templates) -> None:
    script = """
    hostname; cat /data/own; date +%s; head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id
    echo made >/data/made"""
    random_ones: list[str] = []
    for number in (1, 2):
        volume = oci.folder / f"volume{number}"
        volume.mkdir()
        (volume / "own").write_text(f"{number}\n")
        mounts = [{"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]}]
        said, log = templates.run(script, mounts=mounts, hostname=f"host{number}")
        assert said[:2] == [f"host{number}", str(number)]
        assert abs(int(said[2]) - time.time()) < 30
        assert (volume / "made").read_text() == "made\n"
        random_ones += said[3:]
        if number == 1:
            assert "boots: there is no template" in log
            templates.wait_for_one()
        else:
            assert "clone of" in log and "boots:" not in log
    assert len(set(random_ones)) == 4


# Two loops at once, until both CPUs have had a tenth of a second of them
BUSY = """
used() { awk '$1 == "cpu0" || $1 == "cpu1" { printf "%s ", $2 + $3 + $4 }' /proc/stat; }
set -- $(used); first=$1 second=$2
while :; do :; done & one=$!
while :; do :; done & two=$!
while set -- $(used); [ $1 -lt $((first + 10)) ] || [ $2 -lt $((second + 10)) ]; do sleep 0.1; done
kill $one $two
"""


@pytest.mark.long  # more than a minute in the lab
def test_a_machine_and_a_clone_get_cpus_with_a_quota(oci: Oci, templates: Templates) -> None:
    templates.settings.write_text(f"{templates.settings.read_text()}more_cpus = 2\n")

    def cpus() -> tuple[str, ...]:
        found = templates.call("exec", "c1", "sh", "-c", "nproc; grep -c ^processor /proc/cpuinfo").split()
        return *found, templates.call("exec", "c1", "cat", "/sys/fs/cgroup/cpu.max").strip()

    # No more than there may be; the one that boots takes one step, the clone all
    steps = [("150000", "2"), ("800000", "3"), ("200000", "2")]
    for wanted, quotas in (("boots: there is no template", steps[2:]), ("clone of", steps)):
        assert wanted in templates.create("sleep 600", linux__resources={"cpu": {"quota": 90_000, "period": 100_000}})
        assert cpus() == ("1", "1", "90000 100000")
        for quota, count in quotas:
            templates.call("update", "--cpu-quota", quota, "c1")
            assert cpus() == (count, count, f"{quota} 100000")
        templates.call("exec", "c1", "sh", "-c", BUSY)
        if group := json.loads((oci.root / "c1" / "state.json").read_text())["cgroup"]:
            assert Path(group, "cpu.max").read_text() == "200000 100000\n"
        assert 'sandbox_vcpus{sandbox_id="c1"} 2\n' in templates.call("metrics")
        templates.call("update", "--cpu-quota", "100000", "c1")
        assert cpus() == ("1", "1", "100000 100000")
        templates.call("delete", "--force", "c1")
        templates.wait_for_one()
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.long  # two minutes; test_a_machine_grows_with_a_limit has a machine, the test above a clone
def test_a_clone_grows_to_limits_above_its_size(oci: Oci, templates: Templates) -> None:
    templates.settings.write_text(f'{templates.settings.read_text()}more_memory = "512M"\nmore_cpus = 1\n')
    limits = {"memory": {"limit": 640 << 20}, "cpu": {"quota": 200_000, "period": 100_000}}
    for wanted in ("boots: there is no template", "clone of"):
        assert wanted in templates.create("sleep 600", linux__resources=limits)
        memory = templates.call("exec", "c1", "sh", "-c", "grep MemTotal /proc/meminfo").split()
        assert int(memory[1]) > 640 << 10, "MemTotal, in KiB"
        assert templates.call("exec", "c1", "nproc") == "2\n"
        assert templates.call("exec", "c1", "cat", "/sys/fs/cgroup/memory.max") == f"{640 << 20}\n"
        templates.call("delete", "--force", "c1")
        templates.wait_for_one()
    assert len(templates.call("template", "list").splitlines()) == 1, "one serves containers without limits, too"


def test_the_library(oci: Oci) -> None:
    program = ROOT / "examples" / "kata" / "use_container.py"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/examples/kata", "TMPDIR": str(oci.folder)}
    done = subprocess.run(
        [BIN / "python", program, oci.rootfs, oci.settings, oci.root],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["hello world", " ended with 3"]
    assert lines[3:] == ["a copy is running", "ended with 137"]


@pytest.mark.long  # three templates are made; tests/kata has the rest of what is refused
def test_a_template_that_is_broken_is_not_used(oci: Oci, templates: Templates) -> None:
    templates.call("template", "build")
    (memory,) = templates.cache.glob("pyvmm/templates/*/memory")
    with memory.open("r+b") as file:
        file.write(b"x")
    said, log = templates.run("echo runs")
    assert said == ["runs"] and "boots: " in log and "not what was verified" in log
    templates.wait_for_one()
    with templates.start("template", "build") as maker:
        eventually(lambda: list(templates.cache.glob("pyvmm/templates/new-*/sandbox")), "no other template is made")
        maker.kill()
    eventually(lambda: leftovers(oci.folder) == [], "a maker that was killed leaves something")
    templates.call("template", "build")
    assert not list(templates.cache.glob("pyvmm/templates/new-*"))
    templates.call("template", "remove")
    assert templates.call("template", "list") == ""


def test_out_of_memory(oci: Oci) -> None:
    bundle = oci.bundle("head -c 200m /dev/zero | tail", linux__resources={"memory": {"limit": 48 << 20}})
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    spec["process"]["args"] = ["sh", "-c", "exec tail /dev/zero"]
    config.write_text(json.dumps(spec))
    assert oci.run("run", "--bundle", bundle, "c1").returncode == 137


@pytest.fixture
def wired() -> Iterator[None]:
    """A network namespace with an interface, whose other end is here."""
    for command in (
        "ip netns add kata-test",
        "ip link add kata0 type veth peer name kata1",
        "ip link set kata1 netns kata-test name eth0 address 02:00:00:00:77:02 mtu 1400",
        "ip addr add 10.77.0.1/24 dev kata0",
        "ip link set kata0 up",
        "ip -n kata-test addr add 10.77.0.2/24 dev eth0",
        "ip -n kata-test link set eth0 up",
        "ip -n kata-test route add default via 10.77.0.1",
    ):
        subprocess.run(command.split(), check=True)
    yield
    subprocess.run(["ip", "netns", "del", "kata-test"], check=True)


def wired_bundle(oci: Oci) -> str:
    """A bundle of a container in there, which prints its network."""
    script = """
    ip -o link show eth0; ip -o -4 addr show eth0; ip route
    ping -c 1 -W 10 10.77.0.1 >/dev/null && echo answered"""
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    bundle = oci.bundle(script, linux__namespaces=[*namespaces, {"type": "network", "path": "/run/netns/kata-test"}])
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    for names in spec["process"]["capabilities"].values():
        names.append("CAP_NET_RAW")
    config.write_text(json.dumps(spec))
    return bundle


def check_wired(output: str) -> None:
    """The guest has that interface, and the machine's tap device goes soon after the container's end."""
    for words in ("02:00:00:00:77:02", "mtu 1400", "10.77.0.2/24", "default via 10.77.0.1", "answered"):
        assert words in output
    links = ["ip", "-n", "kata-test", "-o", "link"]
    eventually(
        lambda: "pyvmm" not in subprocess.run(links, check=True, capture_output=True, text=True).stdout,
        "the tap device stays after the machine",
    )


@pytest.mark.usefixtures("wired")
def test_the_network_of_its_namespace(oci: Oci) -> None:
    check_wired(oci.check("run", "--bundle", wired_bundle(oci), "c1"))


@pytest.mark.long  # a template is made, and five machines; tests/kata has the rest
@pytest.mark.usefixtures("wired")
def test_a_pool_gives_machines_until_it_is_killed(oci: Oci, templates: Templates) -> None:
    words = templates.with_pool(1)
    command = oci.command(*words)
    pool = subprocess.Popen([BIN / "pyvmm-poold", *command[1:]], env=templates.environment)
    status = [str(BIN / "pyvmm-poold"), *command[1:], "--status"]

    def figures() -> dict[str, int]:
        done = subprocess.run(status, capture_output=True, text=True, timeout=PATIENCE, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"ready": 0, "made": 0, "given": 0}

    def run(bundle: str) -> subprocess.CompletedProcess[str]:
        again = ["run", "--bundle", bundle, "c1"]
        return subprocess.run(
            [*command, *again], capture_output=True, text=True, timeout=PATIENCE, env=templates.environment
        )

    output = oci.folder / "pooled.out"

    def create(bundle: str) -> None:
        with output.open("wb") as out:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            again = ["create", "--bundle", bundle, "c1"]
            subprocess.run([*command, *again], check=True, timeout=PATIENCE, env=templates.environment, **streams)
        (monitor,) = members(oci.root)["monitor"]
        status = Path(f"/proc/{monitor}/status").read_text().split()
        assert int(status[status.index("PPid:") + 1]) == pool.pid, "its machine is another one"
        eventually(lambda: figures()["ready"] == 1, "no other machine becomes ready")

    script = "hostname; cat /data/own; head -c 16 /dev/urandom | md5sum; date +%s; echo made >/data/made"
    said = []
    try:
        # The first one boots, and a template is made; a clone of that takes its place
        eventually(lambda: figures()["ready"] == 1 and figures()["made"] > 1, "no machine becomes ready")
        for number in (1, 2):
            volume = oci.folder / f"pooled{number}"
            volume.mkdir()
            (volume / "own").write_text(f"{number}\n")
            mounts = [{"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]}]
            done = run(oci.bundle(script, mounts=mounts, hostname=f"host{number}"))
            lines = done.stdout.splitlines()
            assert (done.returncode, lines[:2]) == (0, [f"host{number}", str(number)]), done.stderr
            assert abs(int(lines[3]) - time.time()) < 30
            assert (volume / "made").read_text() == "made\n"
            said.append(lines[2])
            assert figures()["given"] == number
            eventually(lambda: figures()["ready"] == 1, "no other machine becomes ready")
        assert said[0] != said[1], "their random numbers are the same"
        create(wired_bundle(oci))
        oci.check("start", "c1")
        eventually(lambda: oci.state("c1")["status"] == "stopped", "it does not end")
        oci.check("delete", "c1")
        check_wired(output.read_text())
        create(oci.bundle("sleep 600"))
        (monitor,) = members(oci.root)["monitor"]
        status = Path(f"/proc/{monitor}/status").read_text().split()
        assert int(status[status.index("CapEff:") + 1], 16).bit_count() == 7
        check_jail(monitor)
        assert len(list(oci.root.glob("@*"))) == 2
    finally:
        pool.kill()
        pool.wait()
    eventually(lambda: len(list(oci.root.glob("@*"))) == 1, "the machine that was ready is left")
    oci.check("start", "c1")
    assert oci.check("exec", "c1", "echo", "it goes on") == "it goes on\n"
    oci.check("delete", "--force", "c1")
    done = run(oci.bundle("echo made by itself"))
    assert done.stdout == "made by itself\n", done.stderr
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.parametrize("victim", ["face", "machine", "server"])
def test_whoever_is_killed(oci: Oci, victim: str) -> None:
    """What stands for the container; the process of the machine; the server of its share."""
    oci.start("c1", "sleep 600")
    (pid,) = members(oci.root)[victim]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: oci.state("c1")["status"] == "stopped", "it lives, and nothing that it writes is on the host")
    if victim == "server":
        reason = f"error share {TAG}: its server was killed by signal 9"
        words = f"c1 was lost: the virtual machine ended: {reason}\n"
        assert oci.output("c1").count(words) == 1, oci.output("c1")
    oci.check("delete", "c1")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.long  # half a minute; the deaths that are named above it come first
@pytest.mark.parametrize("number", range(KILLS))
def test_deaths_at_random(oci: Oci, number: int) -> None:
    """kill -9 of the command, the monitor, the face or the share's server at some time of each command: what is left is
    cleared by `delete --force`."""
    chance = random.Random(number)
    operation = list(LONGEST)[number % len(LONGEST)]
    if operation == "start":
        bundle = oci.bundle("sleep 600")
        subprocess.run(oci.command("create", "--bundle", bundle, "c1"), **NO_STDIO, check=True, timeout=PATIENCE)
    elif operation in ("exec", "delete"):
        oci.start("c1", "sleep 600")
    running = subprocess.Popen(oci.command(*_words(oci, operation)), **NO_STDIO)
    delay, victim = chance.uniform(0, LONGEST[operation]), chance.choice(VICTIMS)
    time.sleep(delay)  # the time is the test's subject
    pids = [running.pid] if victim == "command" else members(oci.root)[victim]
    print(f"{number}: {operation}: {victim} {pids} after {delay:.2f} s")
    kill_all(pids)
    running.wait(PATIENCE)
    oci.check("delete", "--force", "c1")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def _words(oci: Oci, operation: str) -> list[str]:
    """What does it to the container c1."""
    if operation == "create":
        return ["create", "--bundle", oci.bundle("sleep 600"), "c1"]
    if operation == "run":
        return ["run", "--detach", "--bundle", oci.bundle("sleep 600"), "c1"]
    return {"start": ["start", "c1"], "exec": ["exec", "c1", "sleep", "2"], "delete": ["delete", "--force", "c1"]}[
        operation
    ]


@pytest.mark.parametrize("number", range(CYCLES))
def test_cycles(oci: Oci, number: int) -> None:
    name = f"c{number}"
    oci.start(name, "exit 3")
    eventually(partial(has_stopped, oci, name), "it does not end")
    oci.check("delete", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def has_stopped(oci: Oci, name: str) -> bool:
    return bool(oci.state(name)["status"] == "stopped")
