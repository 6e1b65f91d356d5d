"""Files in a container on the Sentry in a machine, beside the same container in our own virtual machine, on runsc
(gVisor) and on runc.

The jobs are those of :mod:`tests.bench.kata_inside`: a tree of files in the container's root and in a volume.  Then
git and pip work in the same places.  As in :mod:`tests.bench.kata`, all programs run from the stage, and one
instruction is one nanosecond.  Of runsc's platforms, the faster one counts, job by job.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import kata, kata_inside
from tests.bench.row import Row, compare, median
from tests.bench.stage import StageError
from tests.sentry import small_root
from tools.where import ROOT

if TYPE_CHECKING:
    from tests.bench.inside import Spec

RUNSC_MUST, VM_MUST = 0.5, 1.11
"""The most, in proportion to the peer: twice runsc's speed, 0.9 of the virtual machine's."""
PLATFORMS = ("systrap", "ptrace")
TITLES = {"unpack": "untar", "find": "find", "grep": "grep", "remove": "rm -r"}
TOOL_TITLES = {"add": "git add", "status": "git status", "install": "pip install"}
WHEELS = Path("/usr/share/python-wheels")
"""Of Debian's python3-pip-whl and its like, which python3-venv brings."""
PACKAGES = "usr/lib/python3/dist-packages"
"""Where Debian's Python looks for pip."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""pip loads it at its start."""
PIP = "--quiet --no-index --no-deps --no-compile --root-user-action ignore"
"""Without compiling, which takes most of the time and is the same work everywhere."""
GIT = "git -C {place}"
TOOLS = {
    "unpack": "tar xf {archive} -C {place}",
    "init": f"{GIT} init -q --template=",
    "add": f"{GIT} add .",
    "status": f"{GIT} status --short >/dev/null",
    "install": f"python3 -m pip install {PIP} --target {{place}}/new /*.whl",
    "remove": kata_inside.JOBS["remove"],
}
TOOL_JOBS = {job: f"{command} || exit 3" for job, command in TOOLS.items()}
TOOLS_ROOT, IMAGE = "/bench/tools.tar", "/bench/root.erofs"
TOOL_TURNS = 1
"""pip alone takes a thousand million instructions."""
PLACES = {"root": "its root", "volume": "a volume", "image": "the root of an image"}


def _wheel(name: str) -> Path:
    """One of Debian's wheels. Raises StageError when it is not installed."""
    found = next(WHEELS.glob(f"{name}-*.whl"), None)
    if found is None:
        raise StageError(f"{WHEELS}/{name}-*.whl: no such file; apt-get install python3-venv")
    return found


def add_tools(archive: Path) -> None:
    """Write what the container's root has for git and pip: both, Python, and a wheel to install."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("lib", "lib64"):
            (root / "usr" / folder).mkdir(parents=True)
            (root / folder).symlink_to(f"usr/{folder}")
        for file in ("/usr/bin/git", CERTIFICATES):
            small_root.copy(root, file)
        small_root.add_python(root)
        with zipfile.ZipFile(_wheel("pip")) as wheel:
            wheel.extractall(root / PACKAGES)
        shutil.copy(_wheel("setuptools"), root)
        compiled = [str(root / folder) for folder in ("usr/lib", PACKAGES)]
        command = [small_root.PYTHON, "-m", "compileall", "-q", "-s", name, *compiled]
        subprocess.run(command, stdout=subprocess.DEVNULL)  # some of pip's files are for older versions
        small_root.add_libraries(root, [*(root / "usr/bin").iterdir(), *root.rglob("*.so")])
        with tarfile.open(archive, "w") as tar:
            for path in sorted(root.iterdir()):
                tar.add(path, path.name)


def make_image(folder: Path) -> Path:
    """A stored image of the same root, with what :func:`add_tools` has written to *folder*."""
    sys.path.append(str(ROOT / "examples" / "kata"))
    from pyvmm_kata.image_store.store import ImageStore

    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "tmp", "volume"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "busybox")
    for applet in kata.APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "xf", folder / "tools.tar", "-C", root], check=True)
    kata_inside.make_archive(root)
    return Path(ImageStore(str(folder / "store")).add(str(root)).path)


def image_bundle(bundle: Path) -> str:
    """The same bundle with the image as its root."""
    made = bundle.with_name("sentry-image")
    made.mkdir()
    spec = json.loads((bundle / "config.json").read_text())
    spec["root"]["path"] = IMAGE
    (made / "config.json").write_text(json.dumps(spec))
    return str(made)


def measure(spec: Spec) -> dict[str, Any]:
    """`files`: how many; for each system, nanoseconds of each job in each turn, and `SYSTEM-tools`, those of git and
    pip."""
    kata.HERE.mkdir(exist_ok=True)
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundle = kata.make_bundle("sentry-files", pyvmm, ["sleep", "100000"])
    kata_inside.prepare(Path(bundle))
    kata.run([kata.BUSYBOX, "tar", "xf", TOOLS_ROOT, "-C", f"{bundle}/rootfs"], warm=False)
    programs = kata.commands(pyvmm, spec)
    systems = {"sentry": [*programs["pyvmm"], "--isolation", "sentry"], "vm": programs["pyvmm"]}
    systems |= {f"runsc-{platform}": [*programs["runsc"], f"--platform={platform}"] for platform in PLATFORMS}
    systems["runc"] = programs["runc"]
    systems |= {f"{name}-image": systems[name] for name in ("sentry", "vm")}
    own = image_bundle(Path(bundle))
    figures: dict[str, Any] = {"files": kata_inside.files()}
    for name, command in systems.items():
        try:
            kata.sleep_in(command, "c1", own if name.endswith("-image") else bundle)
            figures[name] = kata_inside.measure_one(name, command, min(spec.boots, kata.INSIDE_TURNS))
            figures[f"{name}-tools"] = kata_inside.measure_one(name, command, TOOL_TURNS, TOOL_JOBS)
        finally:
            subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=kata.TIMEOUT)
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    systems = [name for name in figures if name != "files" and not name.endswith(("-tools", "-image"))]
    for place, where in PLACES.items():
        runs = {name: f"{name}-image" if place == "image" and name in ("sentry", "vm") else name for name in systems}
        inside = "root" if place == "image" else place
        for job, title in (TITLES | TOOL_TITLES).items():
            end = "-tools" if job in TOOL_TITLES else ""
            took = {name: median(figures[runs[name] + end], f"{inside}-{job}") / 1e6 for name in systems}
            name, unit = f"container on the Sentry: {title} in {where}", "M instructions"
            runsc = min(took[f"runsc-{platform}"] for platform in PLATFORMS)
            made.append(compare(name, took["sentry"], runsc, unit, peer_name="runsc", must=RUNSC_MUST))
            made.append(compare("  beside our VM", took["sentry"], took["vm"], unit, peer_name="VM", must=VM_MUST))
            made.append(compare("  beside runc", took["sentry"], took["runc"], unit, peer_name="runc"))
    return made
