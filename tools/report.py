"""`make report`: the tests and the benchmark on this machine, and one file about it that a user can send.

With usable KVM everything runs directly; elsewhere in the lab, which the file says.  It has the hardware, the kernel,
the versions, how the tests ended and the table of the benchmark with its raw figures; no names of users, hosts or
folders.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.step import say
from tools.where import PYVMM, ROOT, is_native

BUILD = ROOT / "build"
VERSIONS = {
    "qemu": ("qemu-system-x86_64", "--version"),
    "virtiofsd": ("/usr/libexec/virtiofsd", "--version"),
    "crun": ("crun", "--version"),
    "runc": ("runc", "--version"),
    "podman": ("podman", "--version"),
    "containerd": ("containerd", "--version"),
    "gcc": ("gcc", "--version"),
}


def read(path: str) -> str:
    """A file of /proc or /sys, empty where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def first_line(command: tuple[str, ...]) -> str:
    """The first line of a program's version."""
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).partition("\n")[0]


def hardware() -> dict[str, str]:
    """The hardware and the settings on which the figures depend."""
    cpu = read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", cpu, re.M)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo"), re.M)
    modules = {name: read(f"/sys/module/{name}/parameters/nested") for name in ("kvm_intel", "kvm_amd")}
    return {
        "CPU": model[1] if model else "unknown",
        "CPUs": str(os.cpu_count()),
        "memory, MiB": str(int(memory[1]) >> 10) if memory else "unknown",
        "kernel": platform.release(),
        "virtualization": " ".join(sorted(set(re.findall(r"\b(vmx|svm|hypervisor)\b", cpu)))) or "none",
        "nested": " ".join(f"{name}={value}" for name, value in modules.items() if value) or "no module",
        "mitigations": read("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
        "cpufreq governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "none",
        "transparent huge pages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "guests ran": "on this machine's own KVM" if is_native() else "in the lab: QEMU's TCG, nested AMD-V (emulated)",
    }


def run(target: str, arguments: list[str]) -> tuple[int, list[str]]:
    """A target of the Makefile; its status and its last lines, shown meanwhile."""
    say(f"make {target} (minutes)")
    command = ["make", target, *([f"ARGS={' '.join(arguments)}"] if arguments else [])]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            lines = [*lines[-200:], line.rstrip("\n")]
    return process.returncode, lines


def without_places(text: str) -> str:
    """Remove the paths of the checkout and the home directory, and the host's name."""
    for secret in (str(ROOT), os.path.expanduser("~"), platform.node()):
        if len(secret) > 3:
            text = re.sub(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", "...", text)
    return text


def bench(since: float) -> dict[str, Any]:
    """The newest figures of the benchmark, if there are any since then."""
    found = sorted((BUILD / "bench").glob("bench-*.json"), key=lambda path: path.stat().st_mtime)
    if not found or found[-1].stat().st_mtime < since:
        return {}
    figures: dict[str, Any] = json.loads(found[-1].read_text())
    return figures


def main(arguments: list[str]) -> int:
    """Run all and write the file; 1 when a test failed or something was not measured."""
    parser = argparse.ArgumentParser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short benchmark, and no tests")
    parser.add_argument("--only", metavar="PART", action="append", default=[], help="parts of the benchmark")
    options = parser.parse_args(arguments)
    began = time.time()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    doctor = subprocess.run([PYVMM, "doctor"], capture_output=True, text=True).stdout
    status, tests = (0, ["not run"]) if options.quick else run("test", [])
    words = [*(["--quick"] if options.quick else []), *(word for part in options.only for word in ("--only", part))]
    bench_status, table = run("bench", [*words, "--plot", "none"])
    report = {
        "pyvmm": commit,
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {name: first_line(command) for name, command in VERSIONS.items()},
        "doctor": doctor.splitlines(),
        "tests": {"status": status, "end": [without_places(line) for line in tests[-30:]]},
        "bench": {"status": bench_status, "table": [without_places(line) for line in table], "raw": bench(began)},
        "seconds": round(time.time() - began),
    }
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"report-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(without_places(json.dumps(report, indent=1)) + "\n")
    print(f"{path}: look through it, and send it")
    if status or bench_status:
        print("not everything is in it, see above", file=sys.stderr)
    return 1 if status or bench_status else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
