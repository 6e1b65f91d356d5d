"""Containers in machines of their own beside Debian's runc and runsc (gVisor), from the same bundles.

All programs run from the stage.  Times are from the start of a command to its end, and one instruction is one
nanosecond.  To add a container to a running pod, pyvmm's shim is called as containerd calls it.  Debian has no
containerd shim of gVisor, so runsc's figure is the time of the commands that such a shim would run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import kata_inside, kata_phases
from tests.bench.boot import say
from tests.bench.child import ENVIRONMENT, Child, ChildError, wait_for_image
from tests.bench.memory import available_kib
from tests.bench.row import Row, absolute, compare, median
from tests.process_memory import pss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.inside import Spec

HERE = Path("/bench/kata")
SETTINGS = HERE / "kata.toml"
TEMPLATES, POOL = HERE / "templates.toml", HERE / "pool.toml"
READY = 2
RUNSC = ("/usr/bin/runsc", "--ignore-cgroups", "--network=none")
RUNC = "/usr/sbin/runc"
RUNC_SHIM = "/usr/bin/containerd-shim-runc-v2"
POD_TURNS = SERVER_TURNS = 2
BUSYBOX = "/bin/busybox"
CACHE = Path(ENVIRONMENT["HOME"], ".cache")
APPLETS = ("find", "grep", "mkdir", "rm", "sh", "sleep", "tar", "true")
LIMITS = {"memory": {"limit": 64 << 20}, "cpu": {"quota": 100_000, "period": 100_000}}
"""Of `podman run -m 64m --cpus 1`."""
IDLE_S = 3.0
CLONES = 10
INSIDE_TURNS = 3
TIMEOUT = 300.0


def run(argv: Sequence[str], *, warm: bool = True) -> int:
    """Nanoseconds from the start of a program to its end. ChildError when it fails.

    `warm`: from an image where there can be one, so the one before has had the time to make it.
    """
    if warm:
        wait_for_image()
    with Child(argv, ENVIRONMENT if warm else ENVIRONMENT | {"PYVMM_WARM": "0"}) as child:
        if child.finish(TIMEOUT):
            raise ChildError(f"ended with {child.status}\n{child.last_words()}")
        return child.ended - child.started


def make_bundle(name: str, pyvmm: str, command: list[str], kind: str = "", *, limited: bool = False) -> str:
    """A bundle with busybox; its folder. `kind`: in a pod: `sandbox` or `container`; `limited`: it has LIMITS."""
    path = HERE / name
    for folder in ("bin", "dev", "proc", "sys", "tmp"):
        (path / "rootfs" / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "rootfs" / "bin" / "busybox")
    for applet in APPLETS:
        (path / "rootfs" / "bin" / applet).symlink_to("busybox")
    run([pyvmm, "spec", "--bundle", str(path)])
    config = path / "config.json"
    spec = json.loads(config.read_text())
    spec["process"] |= {"args": command, "terminal": False}
    if kind:
        spec["annotations"] = cri_annotations(kind)
    if limited:
        spec["linux"]["resources"] |= LIMITS
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    config.write_text(json.dumps(spec))
    return str(path)


def commands(pyvmm: str, spec: Spec) -> dict[str, list[str]]:
    """The programs, without their command."""
    SETTINGS.write_text(f'kernel = "{spec.kernel}"\nimage = "{spec.kata_image}"\nmemory = "256M"\n')
    TEMPLATES.write_text(f'{SETTINGS.read_text()}template = "auto"\n')
    POOL.write_text(f"{TEMPLATES.read_text()}pool = {READY}\n")
    return {
        "pyvmm": [pyvmm, "--config", str(SETTINGS), "--root", str(HERE / "pyvmm")],
        "runsc": [*RUNSC, "--root", str(HERE / "runsc")],
        "runc": [RUNC, "--root", str(HERE / "runc")],
    }


def memory_of(root: str) -> int:
    """KiB (PSS) of all processes that were started for the state in *root*, or by those, and of those it names."""
    parents: dict[str, str] = {}
    ours = {str(json.loads(path.read_text()).get("pid")) for path in Path(root).glob("*/state.json")}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[name] = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]
            if os.fsencode(root) in Path("/proc", name, "cmdline").read_bytes():
                ours.add(name)
        except OSError:
            continue
    while more := {name for name, parent in parents.items() if parent in ours} - ours:
        ours |= more
    total = 0
    for name in ours & parents.keys():
        with contextlib.suppress(OSError):  # it has ended
            total += pss(int(name))
    return total // 1024


def measure_one(name: str, command: list[str], bundles: dict[str, str], turns: int) -> dict[str, Any]:
    """`run`, `exec`: nanoseconds of each turn; `idle`: KiB of a container that sleeps; `inside`: of kata_inside.py."""
    runs = [run([*command, "run", "--bundle", bundles["true"], "c1"]) for _ in range(turns + 1)][1:]
    say(f"{name}: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    cold = [run([*command, "run", "--bundle", bundles["true"], "c1"], warm=False) for _ in range(turns)]
    try:
        sleep_in(command, "c1", bundles["sleep"])
        execs = [run([*command, "exec", "c1", "true"]) for _ in range(turns + 1)][1:]
        time.sleep(IDLE_S)
        idle = memory_of(command[command.index("--root") + 1])
        inside = kata_inside.measure_one(name, command, min(turns, INSIDE_TURNS))
    finally:
        subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=TIMEOUT)
    say(f"{name}: exec {', '.join(f'{each / 1e6:.1f}' for each in execs)} M instructions, idle {idle / 1024:.1f} MiB")
    return {"run": runs, "cold": cold, "exec": execs, "idle": idle, "inside": inside}


def measure_clones(pyvmm: str, bundles: dict[str, str], turns: int) -> dict[str, Any]:
    """The same with machines that are clones of a template, which exists before: `run`, and `phases`."""
    command = [pyvmm, "--config", str(TEMPLATES), "--root", str(HERE / "clones")]
    debug = ["--debug", "--log", str(HERE / "template.log")]
    for words in ([], debug):  # `--debug` is a word for the guest's kernel, too
        run([*command, *words, "template", "build"])
    runs = [run([*command, "run", "--bundle", bundles["true"], "c1"]) for _ in range(turns + 1)][1:]
    say(f"clones: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    phases = kata_phases.measure(command, bundles["true"], turns, HERE / "debug.log", kata_phases.OF_CLONE)
    return {"run": runs, "phases": phases}


def measure_sleepers(pyvmm: str, bundles: dict[str, str], disk: str) -> dict[str, Any]:
    """KiB of a clone of a template that sleeps alone, `idle`, and beside others, `tenth`; `available`: by how much
    MemAvailable falls for each of the others.

    `disk`: for the user's cache folder. A tmpfs has the images of starts in memory that nobody can take back.
    """
    root, others = HERE / "clones", HERE / "more"
    command = [pyvmm, "--config", str(TEMPLATES), "--root", str(root)]
    beside = [*command[:-1], str(others)]
    sleepers = [(command, "c1"), *((beside, f"d{number}") for number in range(1, CLONES))]
    wait_for_image()
    CACHE.mkdir(exist_ok=True)
    subprocess.run([BUSYBOX, "mount", "-t", "ext4", disk, CACHE], check=True)
    try:
        run([*command, "template", "build"])
        run([*command, "run", "--bundle", bundles["true"], "c1"])  # has the first image made
        sleep_in(*sleepers[0], bundles["sleep"])
        time.sleep(IDLE_S)
        idle, before = memory_of(str(root)), available_kib()
        for sleeper in sleepers[1:]:
            sleep_in(*sleeper, bundles["sleep"])
        time.sleep(IDLE_S)
        tenth, each = memory_of(str(root)), (before - available_kib()) / (CLONES - 1)
    finally:
        for words, name in sleepers:
            subprocess.run([*words, "delete", "--force", name], capture_output=True, timeout=TIMEOUT)
        wait_for_image()
        subprocess.run([BUSYBOX, "umount", "-l", CACHE], check=True)
    say(f"clones: idle {idle / 1024:.1f} MiB, of {CLONES} {tenth / 1024:.1f}, of MemAvailable {each / 1024:.1f}")
    return {"idle": idle, "tenth": tenth, "available": each}


def measure_pool(pyvmm: str, bundle: str, turns: int, name: str = "pool", config: Path = POOL) -> list[int]:
    """Nanoseconds of `run`, for each turn, with a machine of a pool that has READY of them before."""
    options = ["--config", str(config), "--root", str(HERE / name)]
    command = [pyvmm, *options]
    pool = [str(Path(pyvmm).with_name("python3")), "-m", "pyvmm_kata.oci.pool", *options]
    serving = subprocess.Popen(pool, stdin=-3, env=ENVIRONMENT)
    try:
        runs = []
        for turn in range(turns + 1):
            _wait_for_pool([*pool, "--status"], turn)
            runs.append(run([*command, "run", "--bundle", bundle, "c1"]))
        status = subprocess.run([*pool, "--status"], check=True, capture_output=True, timeout=TIMEOUT)
        if json.loads(status.stdout)["given"] != turns + 1:
            raise ChildError(f"the pool did not give all machines: {status.stdout.decode()}")
    finally:
        serving.terminate()
        serving.wait(TIMEOUT)
    say(f"{name}: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs[1:])} M instructions")
    return runs[1:]


def measure_limits(pyvmm: str, spec: Spec) -> dict[str, list[int]]:
    """The same of a container with LIMITS, `pool`, and of runc's, `runc`."""
    bundle = make_bundle("limited", pyvmm, ["true"], limited=True)
    runc = [RUNC, "--root", str(HERE / "runc"), "run", "--bundle", bundle, "c1"]
    runs = [run(runc) for _ in range(spec.boots + 1)][1:]
    say(f"runc, with limits: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    return {"runc": runs, "pool": measure_pool(pyvmm, bundle, spec.boots, "limits")}


def measure_pools(spec: Spec) -> dict[str, Any]:
    """Only what a pool has a part in, see :func:`measure`: `pool`, `runc`, `limits`."""
    HERE.mkdir()
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundle = make_bundle("true", pyvmm, ["true"])
    runc = [*commands(pyvmm, spec)["runc"], "run", "--bundle", bundle, "c1"]
    run([pyvmm, "--config", str(TEMPLATES), "--root", str(HERE / "clones"), "template", "build"])
    figures: dict[str, Any] = {"runc": [run(runc) for _ in range(spec.boots + 1)][1:]}
    figures["pool"] = measure_pool(pyvmm, bundle, spec.boots)
    figures["limits"] = measure_limits(pyvmm, spec)
    return figures


SERVER = """
import http.server, os
kept = os.urandom(1 << 20) * 64
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d bytes" % len(kept))
http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


def measure_restore(pyvmm: str, turns: int) -> dict[str, list[int]]:
    """Nanoseconds to the first answer of a web server in Python that has 64 MiB: `cold`, in a container that is made,
    and `restored`, in one that goes on from a checkpoint.  The answer is asked for in the container."""
    bundle = make_bundle("server", pyvmm, ["/usr/bin/python3", "-IS", "-c", SERVER])
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    spec["mounts"].append({"destination": "/usr", "source": "/usr", "type": "bind", "options": ["rbind", "ro"]})
    config.write_text(json.dumps(spec))
    for name in ("lib", "lib64"):
        Path(bundle, "rootfs", name).symlink_to(f"usr/{name}")
    Path(bundle, "rootfs", "usr").mkdir()
    command = [pyvmm, "--config", str(SETTINGS), "--root", str(HERE / "served")]
    image = str(HERE / "checkpoint")
    made: dict[str, list[int]] = {"cold": [], "restored": []}
    try:
        for turn in range(turns + 1):
            made["cold"].append(_until_it_answers(command, ["create", "--bundle", bundle, "c1"], ["start", "c1"]))
            if not turn:
                run([*command, "checkpoint", "--leave-running", "--image-path", image, "c1"])
            run([*command, "delete", "--force", "c1"])
            restore = ["restore", "--detach", "--bundle", bundle, "--image-path", image, "c1"]
            made["restored"].append(_until_it_answers(command, restore))
            run([*command, "delete", "--force", "c1"])
    finally:
        subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=TIMEOUT)
    for name, times in made.items():
        say(f"a web server, {name}: {', '.join(f'{each / 1e6:.1f}' for each in times)} M instructions to an answer")
    return {name: times[1:] for name, times in made.items()}


def _make(argv: Sequence[str]) -> None:
    """Have a container made.  Its streams must not be pipes of ours: they would be open for as long as it runs."""
    subprocess.run(argv, check=True, stdin=-3, stdout=-3, stderr=-3, timeout=TIMEOUT, env=ENVIRONMENT)


def _until_it_answers(command: Sequence[str], *steps: Sequence[str]) -> int:
    wait_for_image()
    ask = [*command, "exec", "c1", "/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8000/"]
    started = time.monotonic_ns()
    for step in steps:
        _make([*command, *step])
    while time.monotonic_ns() - started < TIMEOUT * 1e9:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=TIMEOUT, env=ENVIRONMENT)
        if done.stdout == f"{64 << 20} bytes":
            return time.monotonic_ns() - started
    raise ChildError(f"the server does not answer: {done.stderr}")


def _wait_for_pool(status: list[str], given: int) -> None:
    """Until all of its machines are ready."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        done = subprocess.run(status, capture_output=True, timeout=TIMEOUT, check=False)
        if done.returncode == 0 and json.loads(done.stdout)["ready"] == READY:
            return
        time.sleep(0.5)
    raise ChildError(f"the pool has no {READY} machines after {given} containers")


def sleep_in(command: Sequence[str], name: str, bundle: str) -> None:
    """Make a container that sleeps, and start it."""
    wait_for_image()
    _make([*command, "create", "--bundle", bundle, name])
    run([*command, "start", name])


def measure_pods(pyvmm: str, programs: dict[str, list[str]], turns: int) -> dict[str, Any]:
    """The cost of one more container in a pod, for pyvmm and runsc."""
    folder = Path(pyvmm).parent
    bundles = {
        "sandbox": make_bundle("pod", pyvmm, ["sleep", "1000"], "sandbox"),
        "container": make_bundle("member", pyvmm, ["true"], "container"),
    }
    shim = str(folder / "containerd-shim-pyvmm-v2")
    figures = {
        "pyvmm": with_shim(str(folder / "python3"), shim, str(SETTINGS), bundles, turns),
        "runsc": with_commands(programs["runsc"], bundles, turns),
    }
    for name, runs in figures.items():
        report(name, runs)
    return figures


def measure_cri(pyvmm: str, turns: int) -> dict[str, list[int]]:
    """Nanoseconds until a pod's container was started, of each pod, by containerd's shim of runc and by ours, whose
    machines boot, are clones, or are of a pool."""
    folder = Path(pyvmm).parent
    python, shim = str(folder / "python3"), str(folder / "containerd-shim-pyvmm-v2")
    bundles = {
        "sandbox": make_bundle("cri-pod", pyvmm, ["sleep", "1000"], "sandbox"),
        "container": make_bundle("cri-member", pyvmm, ["sleep", "1000"], "container"),
    }

    def pods(program: str, config: Path, origin: str = "", ready: Sequence[str] = ()) -> list[int]:
        wanted = {"shim": program, "config": str(config), "turns": min(turns, POD_TURNS), "pods": ready, **bundles}
        wanted["origin"] = origin
        environment = {**ENVIRONMENT, "PATH": f"{ENVIRONMENT['PATH']}:/usr/sbin", "PYTHONPATH": site_of(python)}
        with Child([python, "-S", CLIENT, json.dumps(wanted)], environment) as child:
            if child.finish(POD_TIMEOUT):
                raise ChildError(f"ended with {child.status}\n{child.last_words()}")
            made: list[int] = json.loads(child.output)
            return made

    figures = {
        "runc": pods(RUNC_SHIM, SETTINGS),
        "pyvmm": pods(shim, SETTINGS, "its machine has booted"),
        "clones": pods(shim, TEMPLATES, "its machine is a clone of"),
    }
    pool = [python, "-m", "pyvmm_kata.oci.pool", "--pods"]
    serving = subprocess.Popen([*pool, "--config", str(POOL)], stdin=-3, env=ENVIRONMENT)
    try:
        figures["pool"] = pods(shim, POOL, "its machine is of the pool", [*pool, "--status"])
        status = subprocess.run([*pool, "--status"], check=True, capture_output=True, timeout=TIMEOUT)
        if json.loads(status.stdout)["given"] != len(figures["pool"]) + 1:
            raise ChildError(f"the pool did not give all machines: {status.stdout.decode()}")
    finally:
        serving.terminate()
        serving.wait(TIMEOUT)
    for name, runs in figures.items():
        say(f"a pod with a container, {name}: {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    return figures


def measure(spec: Spec) -> dict[str, Any]:
    """The figures of :func:`measure_one` for each program."""
    HERE.mkdir()
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundles = {"true": make_bundle("true", pyvmm, ["true"]), "sleep": make_bundle("sleep", pyvmm, ["sleep", "1000"])}
    kata_inside.prepare(Path(bundles["sleep"]))
    programs = commands(pyvmm, spec)
    figures: dict[str, Any] = {"pod": measure_pods(pyvmm, programs, spec.boots), "files": kata_inside.files()}
    for name, command in programs.items():
        figures[name] = measure_one(name, command, bundles, spec.boots)
    figures["clones"] = measure_clones(pyvmm, bundles, spec.boots)
    figures["sleepers"] = measure_sleepers(pyvmm, bundles, spec.free_disk)
    figures["pool"] = measure_pool(pyvmm, bundles["true"], spec.boots)
    figures["limits"] = measure_limits(pyvmm, spec)
    figures["cri"] = measure_cri(pyvmm, spec.boots)
    figures["server"] = measure_restore(pyvmm, min(spec.boots, SERVER_TURNS))
    figures["phases"] = kata_phases.measure(programs["pyvmm"], bundles["true"], spec.boots, HERE / "debug.log")
    return figures


def pool_rows(figures: dict[str, Any]) -> list[Row]:
    """Those of :func:`measure_pools`."""
    made = []
    limits = figures["limits"]
    for name, ours, runc in (("", figures["pool"], figures["runc"]), (", with limits", limits["pool"], limits["runc"])):
        pooled, peer = (statistics.median(runs) / 1e6 for runs in (ours, runc))
        title = f"container: run of `true` from a pool{name}"
        made.append(compare(title, pooled, peer, "M instructions", peer_name="runc", must=1.0, aim=0.7))
    return made


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    middle = {
        who: {key: statistics.median(figures[who][key]) / 1e6 for key in ("run", "exec")}
        for who in ("pyvmm", "runsc", "runc")
    }
    unit = "M instructions"
    for key, name, must in (("run", "container: run of `true`", 0.9), ("exec", "container: exec", 0.25)):
        ours, runsc, runc = (middle[who][key] for who in ("pyvmm", "runsc", "runc"))
        made.append(compare(name, ours, runsc, unit, peer_name="runsc", must=must))
        made.append(compare("  against runc", ours, runc, unit, peer_name="runc"))
        if key == "run":
            cold = statistics.median(figures["pyvmm"]["cold"]) / 1e6
            made.append(compare("  started before there is an image", cold, runsc, unit, peer_name="runsc"))
            made += kata_phases.rows(figures["phases"])
            clones = statistics.median(figures["clones"]["run"]) / 1e6
            name = "container: run of `true` from a template"
            made.append(compare(name, clones, runsc, unit, peer_name="runsc", must=0.55, aim=0.35))
            made.append(compare("  against runc", clones, runc, unit, peer_name="runc"))
            made += kata_phases.rows(figures["clones"]["phases"])
            made += pool_rows({**figures, "runc": figures["runc"]["run"]})
            pooled = statistics.median(figures["pool"]) / 1e6
            made.append(compare("  against runsc", pooled, runsc, unit, peer_name="runsc"))
    served = {how: statistics.median(times) / 1e6 for how, times in figures["server"].items()}
    name = "container: a web server's answer from a checkpoint"
    made.append(compare(name, served["restored"], served["cold"], unit, peer_name="started anew", must=0.3))
    pods = {who: statistics.median(runs) / 1e6 for who, runs in figures["cri"].items()}
    for who, name, most in (("pyvmm", "", None), ("clones", " from a template", None), ("pool", " from a pool", 1.0)):
        name = f"container: a pod with one{name}"
        made.append(compare(name, pods[who], pods["runc"], unit, peer_name="runc", must=most))
    ours, runsc = (median(figures["pod"][who], "ns") / 1e6 for who in ("pyvmm", "runsc"))
    made.append(compare("container: one more in a pod", ours, runsc, unit, peer_name="runsc", must=0.4))
    command = median(figures["pod"]["pyvmm"], "command_ns") / 1e6
    made.append(absolute("  of that the shim's command", command, unit))
    ours, runsc = (figures[who]["idle"] / 1024 for who in ("pyvmm", "runsc"))
    made.append(compare("container: memory when idle", ours, runsc, "MiB", peer_name="runsc", must=3.0))
    made.append(absolute("container: memory when idle, absolute", ours, "MiB", 64, 32))
    made.append(absolute("  a clone of a template", figures["sleepers"]["idle"] / 1024, "MiB", 64, 24))
    name = f"  a clone of a template beside {CLONES - 1} others"
    made.append(absolute(name, figures["sleepers"]["tenth"] / 1024, "MiB", 24, 14))
    made.append(absolute("  the same, of MemAvailable", figures["sleepers"]["available"] / 1024, "MiB", 24, 14))
    return made + kata_inside.rows(figures)


# -- one more container in a pod -------------------------------------------------------------------------------------

CLIENT = "/bench/pod_client.py"
POD_TIMEOUT = 600.0
ANNOTATION = "io.kubernetes.cri."


def cri_annotations(kind: str) -> dict[str, str]:
    """The annotations with which CRI marks a pod's sandbox, or a `container` in it, for both runtimes."""
    return {f"{ANNOTATION}container-type": kind, f"{ANNOTATION}sandbox-id": "pod"}


def with_shim(python: str, shim: str, config: str, bundles: dict[str, str], turns: int) -> list[dict[str, int]]:
    """`ns` and `command_ns` of each container, see pod_client.py."""
    wanted = {"shim": shim, "config": config, "turns": turns}
    wanted |= {"sandbox": bundles["sandbox"], "container": bundles["container"]}
    with Child([python, "-S", CLIENT, json.dumps(wanted)], {**ENVIRONMENT, "PYTHONPATH": site_of(python)}) as child:
        if child.finish(POD_TIMEOUT):
            raise ChildError(f"ended with {child.status}\n{child.last_words()}")
        runs: list[dict[str, int]] = json.loads(child.output)
        return runs


def site_of(python: str) -> str:
    """The folder of packages of this interpreter's environment."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def with_commands(command: Sequence[str], bundles: dict[str, str], turns: int) -> list[dict[str, int]]:
    """`ns` of each container: create, start, wait, delete."""

    def call(*words: str) -> None:
        # Its streams must not be pipes of ours: they would be open for as long as the container runs
        subprocess.run(
            [*command, *words], check=True, stdin=-3, stdout=-3, stderr=-3, timeout=POD_TIMEOUT, env=ENVIRONMENT
        )

    def run_container(name: str) -> dict[str, int]:
        began = time.monotonic_ns()
        call("create", "--bundle", bundles["container"], name)
        call("start", name)
        call("wait", name)
        call("delete", name)
        return {"ns": time.monotonic_ns() - began}

    try:
        call("create", "--bundle", bundles["sandbox"], "pod")
        call("start", "pod")
        return [run_container(f"c{turn}") for turn in range(turns + 1)][1:]
    finally:
        subprocess.run([*command, "delete", "--force", "pod"], capture_output=True, timeout=POD_TIMEOUT)


def report(name: str, runs: list[dict[str, Any]]) -> None:
    """A line of progress."""
    times = ", ".join(f"{run['ns'] / 1e6:.1f}" for run in runs)
    say(f"{name}: one more container {times} M instructions")
