"""Snapshots and forks: what a clone costs beside a cold boot, and beside QEMU that loads a mapped-ram file."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import boot, net, programs
from tests.bench.child import Child, ChildError, wait_for_image
from tests.bench.fio import AGENT, DONE, PATIENCE, READY
from tests.bench.memory import SETTLE, available_kib, family
from tests.bench.row import Row, absolute, compare, median
from tests.process_memory import pss

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.inside import Spec

PORT = 5000
QEMU_CID = 55
SERVE = f"vsocktool serve stream {PORT} echo"
LISTENING = b"listening"
DISK = "/bench/snapshot-disk"
WARM, QEMU_FILE = "/bench/warm", "/bench/qemu-warm"
CONTROL, MONITOR, SOCKET = "/tmp/control.sock", "/tmp/monitor.sock", "/tmp/snapshot-vm.sock"
TAPS = ("tap-fork-0", "tap-fork-1")
TRACING = Path("/sys/kernel/tracing")
TEMPLATE = "/bench/template"
CLONE_MIB, WRITTEN_MIB, WRITERS = 64, 16, 30
MAKER = b"pyvmm_warm="
"""In the command line of what makes an image of a started Python."""
FILES_OF_CLONE = 3
"""Of this process, for each clone: the streams of a :class:`Child`."""


# ---- an answer of the guest ------------------------------------------------------------------------------------------


def echo(connection: socket.socket) -> None:
    """One round trip."""
    connection.sendall(b"here\n")
    if connection.recv(16) != b"here\n":
        raise ChildError("the guest did not answer")


def by_unix_socket(path: str) -> Callable[[], socket.socket | None]:
    """Connections through pyvmm's socket *path*."""

    def connect() -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            connection.sendall(f"CONNECT {PORT}\n".encode())
            if connection.recv(32).startswith(b"OK"):
                return connection
        except OSError:
            pass
        connection.close()
        return None

    return connect


def by_vsock() -> socket.socket | None:
    """A connection to QEMU's guest."""
    connection = socket.socket(socket.AF_VSOCK)
    try:
        connection.settimeout(PATIENCE)
        connection.connect((QEMU_CID, PORT))
        return connection
    except OSError:
        connection.close()
        return None


def answered(child: Child, connect: Callable[[], socket.socket | None]) -> int:
    """CLOCK_MONOTONIC in ns of the guest's first answer. Nothing reports earlier that the guest is ready."""
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = connect()
        if connection is not None:
            with connection:
                echo(connection)
            return time.monotonic_ns()
        if time.monotonic() > deadline or os.waitpid(child.pid, os.WNOHANG)[0]:
            raise ChildError(f"no answer\n{child.last_words()}")
        time.sleep(0.002)


class FirstEntry:
    """Reports when a vCPU first enters its guest, from a trace point of the kernel."""

    def __enter__(self) -> FirstEntry:
        # A buffer of a page that keeps what came first
        for name, value in (
            ("trace_clock", "mono"),
            ("options/overwrite", "0"),
            ("buffer_size_kb", "4"),
            ("trace", ""),
        ):
            (TRACING / name).write_text(value)
        (TRACING / "events/kvm/kvm_entry/enable").write_text("1")
        return self

    def __exit__(self, *exc: object) -> None:
        (TRACING / "events/kvm/kvm_entry/enable").write_text("0")

    def at(self) -> int:
        """CLOCK_MONOTONIC in ns."""
        for line in (TRACING / "trace").read_text().splitlines():
            if "kvm_entry:" in line:
                return round(float(line.split("kvm_entry:")[0].split()[-1].rstrip(":")) * 1e9)
        raise ChildError("no vCPU has entered its guest")


# ---- restore ---------------------------------------------------------------------------------------------------------


def guest(spec: Spec, command: str, disk: str = DISK, memory: int = 256) -> programs.Guest:
    """The machine of all programs: its disk is read-only, like that of a template."""
    cmdline = f"{spec.cmdline} root=/dev/vda ro {boot.run_in_guest(command)}"
    return programs.Guest(spec.kernel, cmdline, disk=disk, memory=memory)


def make_disk(spec: Spec) -> None:
    """A root disk with vsocktool."""
    shutil.copyfile(spec.disk, DISK)
    cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest('tar xf /dev/vdb -C / && sync && echo bench-made')}"
    made = programs.Guest(spec.kernel, cmdline, disk=DISK, data="/bench/programs")
    with Child(programs.pyvmm(spec.pyvmm, made)) as child:
        child.wait_for(b"bench-made", PATIENCE)
        child.finish(PATIENCE)


def read_only(argv: list[str]) -> list[str]:
    """The command line with read-only disks."""
    return [
        word + ",ro"
        if word == DISK
        else word.replace(f"filename={DISK}", f"filename={DISK},read-only=on")
        .replace("driver=raw,", "driver=raw,read-only=on,")
        .replace(",write-cache=on", "")
        for word in argv
    ]


def boot_to_answer(argv: list[str], connect: Callable[[], socket.socket | None]) -> int:
    """ns from the start of the process until its guest has answered."""
    with Child(argv) as child:
        child.wait_for(LISTENING, PATIENCE)
        return answered(child, connect) - child.started


def start_to_answer(argv: list[str], connect: Callable[[], socket.socket | None]) -> dict[str, int]:
    """The same for a machine that is restored; and ns until the first instruction of its guest."""
    wait_for_image()
    with FirstEntry() as entry, Child(argv) as child:
        ns = answered(child, connect) - child.started
        return {"ns": ns, "first_run_ns": entry.at() - child.started}


def tell_qemu(*commands: str) -> str:
    """Send a command to QEMU's monitor."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(PATIENCE)
        monitor.connect(MONITOR)
        said = ""
        for command in ("", *commands):
            if command:
                monitor.sendall(command.encode() + b"\n")
            while not said.endswith("(qemu) "):
                said += monitor.recv(65536).decode(errors="replace")
            if command == commands[-1]:
                return said
            said = ""
    return said


def save_qemu(argv: list[str]) -> None:
    """Boot QEMU, and have it write its state and RAM to a file that can be mapped."""
    with Child([*argv, "-monitor", f"unix:{MONITOR},server=on,wait=off"]) as child:
        child.wait_for(LISTENING, PATIENCE)
        tell_qemu("migrate_set_capability mapped-ram on", f"migrate file:{QEMU_FILE}")
        deadline = time.monotonic() + PATIENCE
        while "completed" not in (said := tell_qemu("info migrate")):
            if "failed" in said or time.monotonic() > deadline:
                raise ChildError(f"QEMU cannot save: {said}")
            time.sleep(0.1)


def restore(spec: Spec) -> dict[str, Any]:
    """A cold boot to an answer, a clone of a snapshot, and QEMU's, turn by turn, after one that is not counted."""
    connect = by_unix_socket(SOCKET)
    ours = read_only(programs.pyvmm(spec.pyvmm, guest(spec, SERVE), extra=("--vsock", f"cid=3,uds={SOCKET}")))
    with Child([*ours, "--control", CONTROL]) as child:
        child.wait_for(LISTENING, PATIENCE)
        with Child([spec.pyvmm, "snapshot", CONTROL, WARM]) as saver:
            if saver.finish(PATIENCE):
                raise ChildError(f"no snapshot\n{saver.last_words()}")
    clone = [spec.pyvmm, "restore", WARM, "--vsock", f"cid=3,uds={SOCKET}"]
    device = ("-device", f"vhost-vsock-device,guest-cid={QEMU_CID}")
    theirs = read_only(programs.qemu(guest(spec, SERVE), extra=device))
    figures: dict[str, Any] = {"cold": [], "restore": [], "qemu": []}
    try:
        save_qemu(theirs)
        incoming = [*theirs, "-global", "migration.mapped-ram=on", "-incoming", f"file:{QEMU_FILE}"]
    except ChildError as error:
        boot.say(f"QEMU cannot do this here: {error}")
        incoming = []
    for turn in range(spec.boots + 1):
        wait_for_image()
        runs: dict[str, Any] = {
            "cold": {"ns": boot_to_answer(ours, connect)},
            "restore": start_to_answer(clone, connect),
        }
        if incoming:
            try:
                runs["qemu"] = start_to_answer(incoming, by_vsock)
            # Its driver resets what connects before it has handled the event of the migration
            except (OSError, ChildError) as error:
                boot.say(f"QEMU's restored guest lost its first connection: {error!r} (not counted)")
        for name, run in runs.items():
            words = ", ".join(f"{key} {value / 1e6:.1f} M" for key, value in run.items())
            boot.say(f"{name}: {words}{' (not counted)' if turn == 0 else ''}")
            if turn:
                figures[name].append(run)
    return figures


# ---- forks and amounts -----------------------------------------------------------------------------------------------


def run_library(spec: Spec, **told: Any) -> dict[str, Any]:
    """The output of snapshot_runner.py."""
    python = os.path.join(os.path.dirname(spec.pyvmm), "python3")
    cmdline = f"{spec.cmdline} root=/dev/vda ro {boot.run_in_guest(AGENT)}"
    told = {"kernel": spec.kernel, "cmdline": cmdline, "disk": DISK, "memory": 256, "folder": "/bench/folder", **told}
    with Child([python, "/bench/snapshot_runner.py", json.dumps(told)]) as child:
        status = child.finish(10 * PATIENCE)
        if status:
            raise ChildError(f"status {status}\n{child.last_words()}")
        found: dict[str, Any] = json.loads(child.output)
        boot.say(f"{told['do']}: {found}")
        return found


def measure(spec: Spec) -> dict[str, Any]:
    """In the lab where an instruction is a nanosecond."""
    make_disk(spec)
    figures = {"restore": restore(spec)}
    os.makedirs("/bench/folder")
    Path("/bench/folder/file").write_text("a file\n")
    for number, tap in enumerate(TAPS):
        net.make_tap(tap, f"10.8.{5 + number}")
    rounds = 3 if spec.boots == 1 else 6
    for key, share, ready in (("fork", True, 1), ("fork-unshared", False, 1), ("fork-unprepared", True, 0)):
        figures[key] = run_library(spec, do="fork", taps=TAPS, share=share, ready=ready, rounds=rounds)
    figures["pause"] = run_library(spec, do="pause", memory=512, mib=64, share=False)
    figures["pause-shared"] = run_library(spec, do="pause", memory=512, mib=64, share=True)
    figures["amounts"] = run_library(spec, do="amounts", touched=64, mib=10)
    return figures


# ---- many clones -----------------------------------------------------------------------------------------------------


def digest(path: str) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say_in(clone: Child, command: str) -> None:
    """Run *command* in the guest."""
    start = len(clone.output)
    clone.write(command + "\n")
    clone.wait_for(DONE, 10 * PATIENCE, start)


def hurry_image(clone: Child) -> None:
    """Have the image for the next start made now, not when nobody else wants the CPU: idle clones wake up a few times a
    second, and in the lab some hundreds of them have its two CPUs for themselves."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) > clone.pid:
            try:
                if MAKER in Path("/proc", name, "cmdline").read_bytes():
                    os.sched_setscheduler(int(name), os.SCHED_OTHER, os.sched_param(0))
                    Path("/proc", name, "autogroup").write_text("0")
            except OSError:
                continue  # it has ended


def measure_clones(spec: Spec) -> dict[str, Any]:
    """Clones of one template, with a share and a vsock, as many as `clones` says: what an idle one takes of the host's
    memory, and whether the template is the same when all have written most of theirs."""
    make_disk(spec)
    os.makedirs("/bench/folder", exist_ok=True)
    told = guest(spec, AGENT, memory=CLONE_MIB)
    extra = ("--vsock", f"cid=3,uds={SOCKET}", "--share", "/bench/folder,tag=share", "--control", CONTROL)
    with Child(read_only(programs.pyvmm(spec.pyvmm, told, extra=extra))) as template:
        template.wait_for(READY, PATIENCE)
        say_in(template, "mkdir -p /tmp/share; mount -t virtiofs share /tmp/share")
        with Child([spec.pyvmm, "snapshot", CONTROL, TEMPLATE, "--stop"]) as saver:
            if saver.finish(PATIENCE):
                raise ChildError(f"no snapshot\n{saver.last_words()}")
    before, curve = digest(f"{TEMPLATE}/memory"), []
    files = FILES_OF_CLONE * spec.clones + 1024
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    clones: list[Child] = []
    try:
        wait_for_image()
        free, began = available_kib(), time.monotonic()
        for number in range(spec.clones):
            clones.append(Child([spec.pyvmm, "restore", TEMPLATE, "--vsock", f"cid=3,uds=/tmp/clone-{number}.sock"]))
            say_in(clones[-1], "echo here")
            answered_after = time.monotonic() - clones[-1].started / 1e9
            hurry_image(clones[-1])
            wait_for_image()
            if (number + 1) % 10 == 0:
                curve.append((number + 1, free - available_kib(), time.monotonic() - began, answered_after))
                boot.say(
                    f"{number + 1} clones after {curve[-1][2]:.0f} s: {curve[-1][1] / 1024 / (number + 1):.1f} MiB of"
                    f" MemAvailable each; the last one answered after {answered_after:.2f} s"
                )
        time.sleep(SETTLE)
        idle = (free - available_kib()) / spec.clones
        shares = sum(pss(pid) for clone in clones for pid in family(clone.pid)) / spec.clones / 1024
        boot.say(f"{idle / 1024:.1f} MiB of MemAvailable each, PSS {shares / 1024:.1f} MiB")
        writers, left = clones[:WRITERS], available_kib()
        for clone in writers:
            say_in(clone, f"dd if=/dev/zero of=/tmp/all bs=1M count={WRITTEN_MIB}")
        written = (left - available_kib()) / len(writers)
    finally:
        for clone in clones:
            clone.close()
    same = digest(f"{TEMPLATE}/memory") == before
    figures = {"clones": spec.clones, "idle_kib": idle, "pss_kib": shares, "written_kib": written, "same": same}
    boot.say(str(figures))
    return figures | {"curve": curve}


def clone_rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    number = figures["clones"]
    return [
        absolute(
            f"memory of an idle clone, of MemAvailable, {number} of them", figures["idle_kib"] / 1024, "MiB", 16, 10
        ),
        absolute("  its PSS, all processes", figures["pss_kib"] / 1024, "MiB", 16, 10),
        absolute(f"  and when it has written {WRITTEN_MIB} MiB, more", figures["written_kib"] / 1024, "MiB"),
        absolute("  templates that were changed by that", 0 if figures["same"] else 1, must=0),
    ]


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    unit = "M instructions"
    runs = figures["restore"]
    cold, answer = median(runs["cold"], "ns") / 1e6, median(runs["restore"], "ns") / 1e6
    first = median(runs["restore"], "first_run_ns") / 1e6
    made = [
        compare("restore to the first instruction", first, cold, unit, peer_name="cold boot", must=0.30, aim=0.15),
        compare("restore to an answer over vsock", answer, cold, unit, peer_name="cold boot", must=0.45, aim=0.25),
    ]
    if runs["qemu"]:
        theirs, their_first = (median(runs["qemu"], name) / 1e6 for name in ("ns", "first_run_ns"))
        made.append(compare("  the same beside QEMU", answer, theirs, unit, must=0.5, aim=0.25))
        made.append(compare("  to the first instruction beside QEMU", first, their_first, unit))
    for key, name, must, aim in (
        ("fork", "fork to the child's first instruction", 5.0, 2.0),
        ("fork-unshared", "  without a share", None, None),
        ("fork-unprepared", "  without prepare_forks", None, None),
    ):
        later = figures[key]["runs"][1:]
        made.append(absolute(name, median(later, "first_run_ns") / 1e6, unit, must, aim))
        made.append(absolute("  of that the source stands still", median(later, "pause_ns") / 1e6, unit))
        returned, output = (median(later, f"{what}_ns") / 1e6 for what in ("returned", "output"))
        made.append(absolute("  to the return of fork()", returned, unit, 8.0 if must else None))
        made.append(absolute("  to the child's output", output, unit, 15.0 if must else None))
        made.append(absolute("  the first one", figures[key]["runs"][0]["first_run_ns"] / 1e6, unit))
    for key, name, must, aim in (
        ("pause", "pause of a source of 512 MiB that wrote 64 MiB", 12.0, 5.0),
        ("pause-shared", "  with a share", 12.0, 5.0),
    ):
        made.append(absolute(name, figures[key]["written_ns"] / 1e6, unit, must, aim))
        made.append(absolute("  that wrote nothing", figures[key]["nothing_ns"] / 1e6, unit))
        made.append(absolute("  the first time", figures[key]["first_ns"] / 1e6, unit))
        made.append(absolute("  the fifth time, having written as much", figures[key]["fifth_ns"] / 1e6, unit))
    sizes = {name: kib / 1024 for name, kib in figures["amounts"].items()}
    made.append(
        compare("full snapshot, bytes", sizes["full_kib"], sizes["touched_kib"], "MiB", peer_name="touched", must=1.05)
    )
    made.append(absolute("diff after 10 MB were written", sizes["diff_kib"], "MiB", 12e6 / (1 << 20)))
    return made
