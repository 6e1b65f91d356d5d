"""A directory of the host in a guest: pyvmm's own server beside Debian's virtiofsd under QEMU.

Both serve a directory in the host's memory with one thread for requests and the same cache mode. Before each job the
guest forgets what it knows (drop_caches); for the host everything is warm.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import boot, programs
from tests.bench.child import Child, ChildError
from tests.bench.fio import AGENT, PATIENCE, Vm
from tests.bench.memory import MAPPING, family
from tests.bench.row import Row, absolute, compare, mean, median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.inside import Spec

VIRTIOFSD = "/usr/libexec/virtiofsd"
CACHE = "auto"
MIB = 1 << 20
WINDOW_MIB = 512
FILES_PER_FOLDER = 50
COUNTED_TURNS = 5
"""Where instructions are counted."""
TREE = "/mnt/tree"
TRANSFERS = {"read-1m": "read", "write-1m": "write"}
"""The name of each row's job in fileio (tests/guest/programs)."""
RANDOM = "randread-4k"
TREE_JOBS = {
    "unpack": f"mkdir {TREE}; tar xf /ram/tree.tar -C {TREE}",
    "find": f"find {TREE} -size +100000k",
    "grep": f"grep -rF not-in-there {TREE} || true",
    "remove": f"rm -rf {TREE}",
}


class Amounts:
    """Sizes and numbers of files."""

    def __init__(self, quick: bool) -> None:
        self.data_mib, self.dax_mib, self.folders, self.known = (
            (32, 64, 20, 20_000) if quick else (128, 256, 100, 100_000)
        )


class Share:
    """One machine with a directory, and with QEMU the process that serves it."""

    def __init__(
        self, name: str, spec: Spec, folder: str, *, options: str = "", mount: str = "", data: str = "/bench/programs"
    ) -> None:
        self.name = name
        self.server: Child | None = None
        self.disk = disk = f"/bench/vda-fs-{name}"
        shutil.copyfile(spec.disk, disk)
        cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest(AGENT)}"
        guest = programs.Guest(spec.kernel, cmdline, disk=disk, data=data, memory=512)
        if name.startswith("qemu"):
            argv = self._start_virtiofsd(folder, guest)
        else:
            extra = ("--share", f"{folder},cache={CACHE}{options}", "--stats", "--json")
            argv = programs.pyvmm(spec.pyvmm, guest, extra=extra)
        try:
            self.vm = Vm(name, argv)
            self.vm.run("mkdir /ram; mount -t tmpfs ram /ram; tar xf /dev/vdb -C /", PATIENCE)
            self.vm.run(f"mount -t virtiofs{mount} share /mnt", PATIENCE)
        except BaseException:
            self.close()
            raise

    def _start_virtiofsd(self, folder: str, guest: programs.Guest) -> list[str]:
        """Start virtiofsd, and return the command line of the QEMU that uses it."""
        socket = f"/tmp/{self.name}.sock"
        self.server = Child([VIRTIOFSD, f"--socket-path={socket}", f"--shared-dir={folder}", f"--cache={CACHE}"])
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(socket):
            if time.monotonic() > deadline:
                raise ChildError(f"virtiofsd does not listen\n{self.server.last_words()}")
            time.sleep(0.05)
        # The server has to see the guest's memory.
        ram = f"memory-backend-memfd,id=ram,size={guest.memory}M,share=on"
        device = "vhost-user-fs-device,chardev=fs,tag=share,num-request-queues=1,queue-size=1024"
        extra = ("-object", ram, "-machine", "memory-backend=ram", "-chardev", f"socket,id=fs,path={socket}")
        return programs.qemu(guest, extra=(*extra, "-device", device))

    def servers(self) -> list[int]:
        """The processes that serve the directory, and do nothing else."""
        if self.server:
            return family(self.server.pid)
        found = [pid for pid in family(self.vm.child.pid) if pid != self.vm.child.pid]
        return [pid for pid in found if "fsd" in Path(f"/proc/{pid}/comm").read_text()]

    def seconds(self, command: str) -> float:
        """How long a command takes in the guest, which has forgotten all files before; typing it included."""
        self.vm.run("sync; echo 3 >/proc/sys/vm/drop_caches", PATIENCE)
        start = time.monotonic_ns()
        self.vm.run(command, 5 * PATIENCE)
        return (time.monotonic_ns() - start) / 1e9

    def transfer(self, job: str, mib: int) -> float:
        """MiB/s of a job of fileio on the share's file, which the guest has forgotten before."""
        self.vm.run("sync; echo 3 >/proc/sys/vm/drop_caches", PATIENCE)
        output = self.vm.run(f"fileio {job} /mnt/data {mib << 20}", 2 * PATIENCE)
        return mib * 1e9 / int(output.split()[0])

    def finish(self) -> dict[str, Any]:
        """Power the guest off; returns pyvmm's statistics of the share: requests by name, bytes."""
        self.vm.child.write("umount /mnt; break\n")
        self.vm.child.finish(PATIENCE)
        for line in self.vm.child.errors().splitlines():
            if line.startswith('{"event": "poweroff"'):
                devices = json.loads(line)["stats"]["devices"]
                (found,) = [device for device in devices if "read_bytes" in device and "ops" in device]
                return dict(found)
        raise ChildError(f"no statistics\n{self.vm.child.last_words()}")

    def close(self) -> None:
        """End it."""
        if hasattr(self, "vm"):
            self.vm.close()
        if self.server:
            self.server.close()
        Path(self.disk).unlink(missing_ok=True)


def make_file(path: str, mib: int) -> None:
    """A file without holes."""
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))


def make_tree(path: str, folders: int) -> None:
    """A tar file of folders with files of up to 8 KiB of text, 2 KiB in the middle."""
    text = b"all the words that a file of source text might be made of\n" * 150
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for n in range(folders):
            member = tarfile.TarInfo(f"folder{n:03}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
            for m in range(FILES_PER_FOLDER):
                member = tarfile.TarInfo(f"folder{n:03}/file{m:03}.txt")
                member.size, member.mtime = (m * 37 % 64) ** 2 * 2 + 10, 1_700_000_000
                tar.addfile(member, io.BytesIO(text[: member.size]))


def measure_one(share: Share, mib: int) -> dict[str, float]:
    """One turn: MiB/s of the transfers (reads of 4k: per second), and seconds of what is done with the tree."""
    figures = {name: share.transfer(job, mib) for name, job in TRANSFERS.items()}
    figures[RANDOM] = share.transfer("random", mib // 8) * 256
    for job, command in TREE_JOBS.items():
        figures[job] = share.seconds(command)
    boot.say(f"{share.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return figures


@contextlib.contextmanager
def both_shares(spec: Spec, amounts: Amounts) -> Iterator[list[Share]]:
    """pyvmm's and virtiofsd's, each with its file of data, and the tree's archive in the guest's memory."""
    shares: list[Share] = []
    make_tree("/bench/tree.tar", amounts.folders)
    try:
        for name in ("pyvmm", "qemu"):
            shutil.copyfile("/bench/programs", f"/bench/data-{name}.tar")
            with tarfile.open(f"/bench/data-{name}.tar", "a") as data:
                data.add("/bench/tree.tar", "ram/tree.tar")
            folder = f"/bench/share-{name}"
            os.mkdir(folder)
            make_file(f"{folder}/data", amounts.data_mib)
            shares.append(Share(name, spec, folder, data=f"/bench/data-{name}.tar"))
            boot.say(f"{name} is up")
        yield shares
    finally:
        for share in shares:
            share.close()
            shutil.rmtree(f"/bench/share-{share.name}")


def measure_jobs(spec: Spec, amounts: Amounts) -> dict[str, Any]:
    """Turn by turn, so that what else the machine does hits both; `stats` are those of pyvmm's share."""
    figures: dict[str, Any] = {"pyvmm": [], "qemu": []}
    with both_shares(spec, amounts) as shares:
        for turn in range(spec.turns + 1):
            for share in shares if turn % 2 == 0 else reversed(shares):
                run = measure_one(share, amounts.data_mib)
                if turn:  # the first is for the caches
                    figures[share.name].append(run)
        return figures | {"stats": shares[0].finish()}


def measure_instructions(spec: Spec) -> dict[str, Any]:
    """The jobs, much smaller, where one instruction is one nanosecond.

    The first turn is for the caches, and of the others the median counts: what a machine does now and then, by itself,
    takes half as much as to find these few files.
    """
    amounts = Amounts(True)
    amounts.data_mib, amounts.folders = 16, 4
    figures: dict[str, Any] = {"pyvmm": [], "qemu": []}
    with both_shares(spec, amounts) as shares:
        for turn in range(COUNTED_TURNS + 1):
            for share in shares:
                run = measure_one(share, amounts.data_mib)
                if turn:
                    figures[share.name].append(run)
    return figures | {"files": amounts.folders * FILES_PER_FOLDER}


def measure_dax(spec: Spec, mib: int) -> dict[str, Any]:
    """A file that is mapped is read twice: with a window and without; bytes that the server copied for that."""
    figures: dict[str, Any] = {}
    folder = "/bench/share-dax"
    os.mkdir(folder)
    make_file(f"{folder}/data", mib)
    for name, options, mount in (("dax", f",dax={WINDOW_MIB}M", " -o dax"), ("plain", "", "")):
        share = Share(f"pyvmm-{name}", spec, folder, options=options, mount=mount)
        try:
            before = share.vm.run("grep ^Cached: /proc/meminfo", PATIENCE).split()[1]
            speeds = [share.transfer("map", mib) for _ in range(2)]
            after = share.vm.run("grep ^Cached: /proc/meminfo", PATIENCE).split()[1]
            stats = share.finish()
        finally:
            share.close()
        cached = (int(after) - int(before)) / 1024
        figures[name] = {"mib_s": speeds, "copied": stats["read_bytes"], "guest_cache_mib": cached, "stats": stats}
        boot.say(f"{name}: {speeds} MiB/s, {stats['read_bytes']} bytes copied, {cached:.0f} MiB cached")
    shutil.rmtree(folder)
    return figures


def server_memory(pid: int) -> dict[str, int]:
    """KiB that only process `pid` uses, and its part of all that it uses; guest RAM, a memfd, not counted."""
    sums = {"uss_kib": 0, "pss_kib": 0}
    is_ram = False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if header := MAPPING.match(line):
                is_ram = "memfd:" in header[3] and int(header[2], 16) - int(header[1], 16) >= 64 * MIB
            elif not is_ram and line.startswith(("Private_", "Pss:")):
                sums["pss_kib" if line.startswith("Pss") else "uss_kib"] += int(line.split()[1])
    return sums | {"fds": len(os.listdir(f"/proc/{pid}/fd"))}


def measure_memory(spec: Spec, count: int) -> dict[str, Any]:
    """The servers' memory before and after the guest looked up many files."""
    folder = "/bench/share-many"
    for n in range(count // 1000):
        os.makedirs(f"{folder}/{n}")
        for m in range(1000):
            os.close(os.open(f"{folder}/{n}/{m}", os.O_CREAT | os.O_WRONLY, 0o644))
    figures: dict[str, Any] = {"count": count}
    for name in ("pyvmm", "qemu"):
        share = Share(f"{name}-many", spec, folder)
        try:
            for when, command in (("before", "true"), ("after", "find /mnt -size +1000k")):
                share.vm.run(command, 5 * PATIENCE)
                each = [server_memory(pid) for pid in share.servers()]
                figures[f"{name}-{when}"] = {key: sum(one[key] for one in each) for key in each[0]}
        finally:
            share.close()
        boot.say(f"{name}: {figures[f'{name}-before']} {figures[f'{name}-after']}")
    shutil.rmtree(folder)
    return figures


def measure(spec: Spec) -> dict[str, Any]:
    """Measure all rows of shares."""
    amounts = Amounts(spec.turns == 1)
    return {
        "files": amounts.folders * FILES_PER_FOLDER,
        "jobs": measure_jobs(spec, amounts),
        "dax": measure_dax(spec, amounts.dax_mib),
        "memory": measure_memory(spec, amounts.known),
    }


def _jobs(jobs: dict[str, Any], files: int, suffix: str = "") -> list[Row]:
    names = {job: (f"share: {job}", "requests/s" if job == RANDOM else "MiB/s", True) for job in (*TRANSFERS, RANDOM)}
    tree = {
        "unpack": f"unpack {files:,} files",
        "find": "find and stat them",
        "grep": "grep -r",
        "remove": "rm -rf",
    }
    names |= {job: (f"share: {label}", "1/s", False) for job, label in tree.items()}
    made = []
    for job, (name, unit, is_rate) in names.items():
        both = (median(jobs[who], job) for who in ("pyvmm", "qemu"))
        ours, theirs = (value if is_rate else 1 / value for value in both)
        made.append(compare(name + suffix, ours, theirs, unit, peer_name="virtiofsd", must=1.3, at_least=True))
    made.append(Row("share, geometric mean" + suffix, mean(made), must=2.0, aim=2.5, at_least=True))
    return made


def icount_rows(figures: dict[str, Any]) -> list[Row]:
    """The same of the run that counts instructions."""
    return _jobs(figures, figures["files"], ", one CPU, instructions")


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = _jobs(figures["jobs"], figures["files"])
    dax, plain = (figures["dax"][name] for name in ("dax", "plain"))
    made.append(absolute("DAX: bytes copied to read a mapped file twice", dax["copied"], "bytes", must=0))
    for key, name in (("copied", "without DAX"), ("guest_cache_mib", "guest RAM taken by DAX, MiB, and without")):
        made.append(Row(f"  {name}", dax[key], pyvmm=dax[key], peer=plain[key], peer_name="no DAX", ratio=False))
    ours, theirs = (dax["mib_s"][1], plain["mib_s"][1])
    made.append(compare("  reading it for the second time", ours, theirs, "MiB/s", peer_name="no DAX", at_least=True))
    memory = figures["memory"]
    for key, name in (("uss_kib", "memory of the server"), ("pss_kib", "  its part of all that it maps")):
        ours, theirs = (memory[f"{who}-after"][key] for who in ("pyvmm", "qemu"))
        name = f"{name}, {memory['count']:,} files known"
        must, aim = (1.0, 0.5) if key == "uss_kib" else (None, None)
        made.append(compare(name, ours, theirs, "KiB", peer_name="virtiofsd", must=must, aim=aim))
    ours, theirs = (memory[f"{who}-after"]["fds"] for who in ("pyvmm", "qemu"))
    made.append(compare("  its descriptors", ours, theirs, peer_name="virtiofsd"))
    return made
