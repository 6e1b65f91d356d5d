"""From raw figures to rows: a ratio, what it has to be, and whether it is."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import net
from tests.bench.fio import JOBS
from tests.bench.fs import RANDOM, TRANSFERS
from tests.bench.vsock import MOVES

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `value` is compared with `must` and `aim`; `at_least` says which side of them is good. `pyvmm` and `peer` are the
    figures behind it, in `unit`.
    """

    name: str
    value: float
    unit: str = ""
    pyvmm: float | None = None
    peer: float | None = None
    peer_name: str = ""
    must: float | None = None
    aim: float | None = None
    at_least: bool = False
    ratio: bool = True

    def meets(self, target: float | None) -> bool | None:
        """Whether `value` is on the good side of `target`; None when there is none."""
        if target is None:
            return None
        return self.value >= target if self.at_least else self.value <= target

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.must is None and self.aim is None:
            return ""
        if self.meets(self.must) is False:
            return "MISSED"
        if self.meets(self.aim) is False:
            return "met, aim missed"
        return "met, aim too" if self.aim is not None else "met"


def _compare(
    name: str,
    pyvmm: float,
    peer: float,
    unit: str = "",
    *,
    peer_name: str = "QEMU",
    must: float | None = None,
    aim: float | None = None,
    at_least: bool = False,
) -> Row:
    return Row(name, pyvmm / peer if peer else math.nan, unit, pyvmm, peer, peer_name, must, aim, at_least)


def _absolute(name: str, value: float, unit: str = "", must: float | None = None, aim: float | None = None) -> Row:
    return Row(name, value, unit, pyvmm=value, must=must, aim=aim, ratio=False)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def _boot_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    unit = "M instructions"
    for kind, label in (("initrd", "initramfs"), ("disk", "root disk")):
        programs = figures[kind]
        ours, theirs, tuned = (_median(programs[name]["runs"], "ns") / 1e6 for name in ("pyvmm", "qemu", "qemu-tuned"))
        rows.append(_compare(f"cold boot, {label}", ours, theirs, unit, must=0.50, aim=0.35))
        rows.append(_compare("  against QEMU with its faster firmware", ours, tuned, unit, peer_name="qboot"))
        runs = programs["pyvmm"]["runs"]
        rows.append(_absolute("  before the first KVM_RUN", _median(runs, "first_run_ns") / 1e6, unit))
        rows.append(_absolute("  the guest, with its faults and exits", _median(runs, "guest_ns") / 1e6, unit))
        ours, theirs = (_median([run["kvm"] for run in programs[name]["runs"]], "exits") for name in ("pyvmm", "qemu"))
        rows.append(_compare("  exits", ours, theirs))
        ours, theirs = (float(sum(programs[name]["traced"]["user_exits"].values())) for name in ("pyvmm", "qemu"))
        rows.append(_compare("  exits to user space", ours, theirs))
        ours, theirs = (float(programs[name]["traced"]["syscalls"]) for name in ("pyvmm", "qemu"))
        rows.append(_compare("  system calls", ours, theirs))
        python = _median([run["stats"]["exits"] for run in runs], "python")
        rows.append(_absolute("  exits answered by Python, power-off included", python))
    if "pci" in figures:
        on_pci = {name: figures["pci"][name]["runs"] for name in ("pyvmm", "qemu")}
        ours, theirs = (_median(on_pci[name], "ns") / 1e6 for name in ("pyvmm", "qemu"))
        rows.append(_compare("cold boot, root disk on PCI", ours, theirs, unit, peer_name="QEMU, pcie=on"))
        mmio = figures["disk"]["pyvmm"]["runs"]
        rows.append(_compare("  against virtio-mmio", ours, _median(mmio, "ns") / 1e6, unit, peer_name="pyvmm"))
        ours, theirs = (_median([run["kvm"] for run in runs], "exits") for runs in (on_pci["pyvmm"], mmio))
        rows.append(_compare("  exits against virtio-mmio", ours, theirs, peer_name="pyvmm"))
    return rows


def _memory_rows(figures: dict[str, Any]) -> list[Row]:
    ours, theirs = (figures[name]["kib"] / 1024 for name in ("pyvmm", "qemu"))
    return [
        _compare("memory of the monitor", ours, theirs, "MiB", must=0.5),
        _absolute("memory of the monitor, absolute", ours, "MiB", 14, 8),
        _absolute("  the first time with a kernel, which is parsed", figures["pyvmm-cold"]["kib"] / 1024, "MiB"),
    ]


def _startup_rows(figures: dict[str, Any]) -> list[Row]:
    ours, theirs = (statistics.median(figures[name]) / 1e6 for name in ("first_run_ns", "python_ns"))
    name = "start-up to the first KVM_RUN"
    return [_compare(name, ours, theirs, "ms", peer_name="python3 -c pass", must=3.5, aim=2.5)]


def _fio_jobs(figures: dict[str, Any], peer: str = "qemu") -> list[tuple[str, str, float, float]]:
    """Of each job: name, unit, and the medians of pyvmm and the peer."""
    jobs = []
    for job in JOBS:
        unit, key, scale = ("requests/s", "iops", 1) if "4k" in job else ("MiB/s", "kib_s", 1024)
        ours, theirs = (_median([run[job] for run in figures[name]], key) / scale for name in ("pyvmm", peer))
        jobs.append((job, unit, ours, theirs))
    return jobs


def _mean(rows: list[Row]) -> float:
    return math.exp(statistics.fmean(math.log(row.value) for row in rows))


def _fio_rows(figures: dict[str, Any]) -> list[Row]:
    rows = [
        _compare(f"fio {job}", ours, theirs, unit, must=1.0, at_least=True)
        for job, unit, ours, theirs in _fio_jobs(figures)
    ]
    rows.append(Row("fio, geometric mean", _mean(rows), aim=1.2, at_least=True))
    main = [_compare("", ours, theirs) for _, _, ours, theirs in _fio_jobs(figures, "qemu-main")]
    rows.append(Row("  geometric mean against QEMU without an iothread", _mean(main), at_least=True))
    python = sum(run["counted"]["exits_python"] for run in figures["pyvmm"])
    rows.append(_absolute("exits answered by Python during fio", python, must=0, aim=0))
    return rows


def _net_rows(
    figures: dict[str, Any], suffix: str = "", must: float | None = 1.0, aim: float | None = 1.3
) -> list[Row]:
    rows = []
    unit = " at 1 GHz" if suffix else ""
    for job in (*net.JOBS, net.ROUND_TRIP):
        ours, theirs = (_median(figures[name], job) for name in ("pyvmm", "qemu"))
        label = "net 64-byte round trips" if job == net.ROUND_TRIP else f"net iperf3 {job}"
        what = ("trips/s" if job == net.ROUND_TRIP else "MiB/s") + unit
        rows.append(_compare(label + suffix, ours, theirs, what, must=must, aim=aim, at_least=True))
    rows.append(Row("  net, geometric mean", _mean(rows), at_least=True))
    python = sum(run["counted"]["exits_python"] for run in figures["pyvmm"])
    rows.append(_absolute("  exits answered by Python meanwhile", python, must=0))
    return rows


def _net_icount_rows(figures: dict[str, Any]) -> list[Row]:
    return _net_rows(figures, ", one CPU, instructions", None, None)


def _fio_icount_rows(figures: dict[str, Any]) -> list[Row]:
    rows = [
        _compare(f"fio {job}, one CPU, instructions", ours, theirs, unit + " at 1 GHz", at_least=True)
        for job, unit, ours, theirs in _fio_jobs(figures)
    ]
    rows.append(Row("  geometric mean", _mean(rows), at_least=True))
    for key in ("exits", "mmio_exits", "io_exits"):
        per = [sum(r["counted"][key] for r in figures[n]) / sum(r["requests"] for r in figures[n]) for n in figures]
        ours, theirs = (dict(zip(figures, per, strict=True))[name] for name in ("pyvmm", "qemu"))
        rows.append(_compare(f"  {key.replace('_', ' ')} per request", ours, theirs))
    return rows


def _vsock_rows(figures: dict[str, Any], suffix: str = "") -> list[Row]:
    """`suffix` is for where instructions are counted: there are no targets there."""
    names = {"send": "to the guest", "recv": "from the guest"}
    wanted: list[tuple[str, str, str, float, bool]] = [
        (key, f"vsock {names[verb]}, {n} connection{'s' * (n > 1)}, 64 KiB writes", "MiB/s", 0.8, True)
        for key, (verb, n) in MOVES.items()
    ]
    wanted += [
        ("rtt_us", "vsock round trip of 64 bytes", "us", 1.3, False),
        ("connects", "vsock connections", "1/s", 0.7, True),
    ]
    rows = []
    for key, name, unit, must, at_least in wanted:
        ours, vhost, theirs = (_median(figures[each], key) for each in ("pyvmm", "pyvmm-vhost", "qemu"))
        limits = (None, None) if suffix else (must, 1.0)
        rows.append(_compare(name + suffix, ours, theirs, unit, must=limits[0], aim=limits[1], at_least=at_least))
        rows.append(_compare("  with backend=vhost", vhost, theirs, unit, at_least=at_least))
    return rows


def _vsock_icount_rows(figures: dict[str, Any]) -> list[Row]:
    return _vsock_rows(figures, ", one CPU, instructions")


def _console_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for name, label in (("print", "console, printing"), ("type", "console, typing")):
        hvc, uart = (_median(figures[device], name) / 1024 for device in ("virtio", "serial"))
        rows.append(_compare(label, hvc, uart, "KiB/s", peer_name="UART", must=10, at_least=True))
    return rows


def _debian_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for key, label in (("running", "Debian's kernel to systemd's `running`, on PCI"), ("login", "  to the login")):
        ours, theirs = (_median(figures[who], key) for who in ("pyvmm", "qemu"))
        rows.append(_compare(label, ours, theirs, "s", peer_name="QEMU, pcie=on"))
    return rows


def _fs_jobs(jobs: dict[str, Any], files: int, suffix: str = "") -> list[Row]:
    names = {job: (f"share: {job}", "requests/s" if job == RANDOM else "MiB/s", True) for job in (*TRANSFERS, RANDOM)}
    tree = {
        "unpack": f"unpack {files:,} files",
        "find": "find and stat them",
        "grep": "grep -r",
        "remove": "rm -rf",
    }
    names |= {job: (f"share: {label}", "1/s", False) for job, label in tree.items()}
    rows = []
    for job, (name, unit, is_rate) in names.items():
        both = (_median(jobs[who], job) for who in ("pyvmm", "qemu"))
        ours, theirs = (value if is_rate else 1 / value for value in both)
        must = None if suffix else 1.0
        rows.append(_compare(name + suffix, ours, theirs, unit, peer_name="virtiofsd", must=must, at_least=True))
    rows.append(Row("share, geometric mean" + suffix, _mean(rows), aim=None if suffix else 1.3, at_least=True))
    return rows


def _fs_icount_rows(figures: dict[str, Any]) -> list[Row]:
    return _fs_jobs(figures, figures["files"], ", one CPU, instructions")


def _fs_rows(figures: dict[str, Any]) -> list[Row]:
    rows = _fs_jobs(figures["jobs"], figures["files"])
    dax, plain = (figures["dax"][name] for name in ("dax", "plain"))
    rows.append(_absolute("DAX: bytes copied to read a mapped file twice", dax["copied"], "bytes", must=0))
    for key, name in (("copied", "without DAX"), ("guest_cache_mib", "guest RAM taken by DAX, MiB, and without")):
        rows.append(Row(f"  {name}", dax[key], pyvmm=dax[key], peer=plain[key], peer_name="no DAX", ratio=False))
    ours, theirs = (dax["mib_s"][1], plain["mib_s"][1])
    rows.append(_compare("  reading it for the second time", ours, theirs, "MiB/s", peer_name="no DAX", at_least=True))
    memory = figures["memory"]
    for key, name in (("uss_kib", "memory of the server"), ("pss_kib", "  its part of all that it maps")):
        ours, theirs = (memory[f"{who}-after"][key] for who in ("pyvmm", "qemu"))
        name = f"{name}, {memory['count']:,} files known"
        must, aim = (1.0, 0.5) if key == "uss_kib" else (None, None)
        rows.append(_compare(name, ours, theirs, "KiB", peer_name="virtiofsd", must=must, aim=aim))
    ours, theirs = (memory[f"{who}-after"]["fds"] for who in ("pyvmm", "qemu"))
    rows.append(_compare("  its descriptors", ours, theirs, peer_name="virtiofsd"))
    return rows


def _kata_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    middle = {
        who: {key: statistics.median(each[key]) / 1e6 for key in ("run", "exec")} for who, each in figures.items()
    }
    unit = "M instructions"
    for key, name, must, aim in (("run", "container: run of `true`", 2.5, 1.5), ("exec", "container: exec", 1.0, 0.5)):
        ours, runsc, runc = (middle[who][key] for who in ("pyvmm", "runsc", "runc"))
        rows.append(_compare(name, ours, runsc, unit, peer_name="runsc", must=must, aim=aim))
        rows.append(_compare("  against runc", ours, runc, unit, peer_name="runc"))
    ours, runsc = (figures[who]["idle"] / 1024 for who in ("pyvmm", "runsc"))
    rows.append(_compare("container: memory when idle", ours, runsc, "MiB", peer_name="runsc", must=3.0))
    rows.append(_absolute("container: memory when idle, absolute", ours, "MiB", 64, 32))
    return rows


def rows(figures: dict[str, Any]) -> list[Row]:
    """The rows of the parts that were measured, in their order."""
    makers = {
        "boot": _boot_rows,
        "memory": _memory_rows,
        "startup": _startup_rows,
        "fio": _fio_rows,
        "fio-icount": _fio_icount_rows,
        "vsock": _vsock_rows,
        "console": _console_rows,
        "debian": _debian_rows,
        "fs": _fs_rows,
        "net": _net_rows,
        "net-icount": _net_icount_rows,
        "fs-icount": _fs_icount_rows,
        "vsock-icount": _vsock_icount_rows,
        "kata": _kata_rows,
    }
    return [row for part, make in makers.items() if part in figures for row in make(figures[part])]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def table(rows: list[Row]) -> str:
    """The rows for a person."""
    head = ("", "pyvmm", "peer", "unit", "value", "must", "aim", "")
    lines = [head]
    for row in rows:
        sign = ">=" if row.at_least else "<="
        must, aim = ("" if target is None else f"{sign} {target:g}" for target in (row.must, row.aim))
        peer = f"{_number(row.peer)} {row.peer_name}" if row.peer is not None else row.peer_name
        value = f"{row.value:.2f} x" if row.ratio else _number(row.value)
        lines.append((row.name, _number(row.pyvmm), peer, row.unit, value, must, aim, row.verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n" + "\n".join([text[0], "-" * max(map(len, text)), *text[1:]]) + "\n"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except FileNotFoundError:
        return ""


def write(path: Path, rows: list[Row], figures: dict[str, Any]) -> None:
    """Rows, raw figures and where they come from, as JSON."""
    data = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _output("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "qemu": _output("qemu-system-x86_64", "--version").partition("\n")[0],
        "host": {"kernel": platform.release(), "cpus": os.cpu_count(), "load": os.getloadavg()},
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "raw": figures,
    }
    path.write_text(json.dumps(data, indent=1))
