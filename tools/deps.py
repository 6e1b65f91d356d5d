#!/usr/bin/env python3
"""Installs what this checkout needs: distribution packages, .venv, the C extension. Python 3.9 or newer, stdlib only.

usage: tools/deps.py [GROUP]...

The groups are build, demo, kernel, kata, lab, guest, check, long, docs, fuzz, bench, conformance, suites, prove, wheels
and deb.

Idempotent: with nothing missing it looks at a few files and ends. What is missing is named, with the reason, in one
line before apt-get installs it. The lab's packages are only asked for where the machine's own KVM is no use.

PYVMM_PYTHON=PATH in the environment makes .venv with another interpreter, for good.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from tools.step import say, step  # noqa: E402
from tools.where import why_unusable  # noqa: E402

VENV = os.path.join(ROOT, ".venv")
OLDEST = (3, 11)
SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


class Need(NamedTuple):
    """A program or file that must exist, and the package that has it."""

    groups: str
    what: str  # a program's name, or a glob of files one of which must exist
    package: str
    why: str


NEEDS = (
    Need("build", "gcc", "gcc", "compiles the C data plane"),
    Need("build", "/usr/include/stdio.h", "libc6-dev", "C headers"),
    Need("build", "/usr/include/linux/kvm.h", "linux-libc-dev", "kernel headers"),
    Need("build", "/usr/include/liburing.h", "liburing-dev", "virtio-blk's asynchronous I/O"),
    Need("kernel check", "make", "make", "builds the guest kernel; runs on the Sentry in tests"),
    Need("kernel", "ld", "binutils", "links the guest kernel"),
    Need("kernel", "flex", "flex", "guest kernel's configuration"),
    Need("kernel", "bison", "bison", "guest kernel's configuration"),
    Need("kernel", "bc", "bc", "guest kernel's time constants"),
    Need("kernel check guest suites", "patch", "patch", "patches of the guest kernel, and of sources from the archive"),
    Need("kernel", "xz", "xz-utils", "unpacks the kernel's source"),
    Need("kernel", "/usr/include/gelf.h", "libelf-dev", "guest kernel's objtool"),
    Need("demo kernel", "mke2fs", "e2fsprogs", "makes the root disk"),
    Need("demo kernel lab check", "static busybox", "busybox-static", "user space of guests, the lab and the Sentry"),
    Need("demo lab", "zstd", "zstd", "unpacks the distribution's kernel"),
    Need(
        "guest deb",
        "mmdebstrap",
        "mmdebstrap",
        "makes the Debian of guest tests, and of packages' tests",
    ),
    Need("deb", "dh", "debhelper", "makes Debian packages"),
    Need("deb", "dh_python3", "dh-python", "makes Debian packages with Python in them"),
    Need("deb", "dpkg-buildpackage", "dpkg-dev", "makes Debian packages"),
    Need("deb", "lintian", "lintian", "checks Debian packages"),
    Need("lab bench", "qemu-system-x86_64", "qemu-system-x86", "runs the lab, a nested KVM host"),
    Need("lab", "setpriv", "util-linux", "ends the lab with its parent"),
    Need("check", "iasl", "acpica-tools", "checks the ACPI tables"),
    Need("guest suites", "stress-ng", "stress-ng", "stresses file systems in a guest, and the Sentry"),
    Need("check", "mkfs.xfs", "xfsprogs", "makes file systems for the tests of shares"),
    Need("check", "mkfs.btrfs", "btrfs-progs", "makes file systems for the tests of shares"),
    Need("check guest", "gdb", "gdb", "tests of the gdb stub"),
    Need("check", "strace", "strace", "compared with what the Sentry prints of system calls"),
    Need("check", "git", "git", "runs on the Sentry in tests"),
    Need("check", "less", "less", "runs on the Sentry in tests"),
    Need("long", "g++", "g++", "runs on the Sentry in long tests"),
    Need("long", "cmake", "cmake", "runs on the Sentry in long tests"),
    Need("long", "ninja", "ninja-build", "runs on the Sentry in long tests"),
    Need("check", "rsync", "rsync", "runs on the Sentry in tests"),
    Need("check", "tclsh", "tcl", "runs on the Sentry in tests"),
    Need("check", "/usr/lib/python3*/ensurepip/__init__.py", "python3-venv", "runs on the Sentry in tests"),
    Need("check", "vi", "vim-tiny", "runs on the Sentry in tests"),
    Need("check", "nginx", "nginx", "runs on the Sentry in tests"),
    Need("check", "curl", "curl", "runs on the Sentry in tests"),
    Need("check", "redis-server", "redis-server", "runs on the Sentry in tests"),
    Need("check", "sqlite3", "sqlite3", "runs on the Sentry in tests"),
    Need("long", "node", "nodejs", "runs on the Sentry in long tests"),
    Need("long", "chromium", "chromium", "opens the page of examples/server"),
    Need("long", "npm", "npm", "installs the conformance suite of the Model Context Protocol"),
    Need("long", "/usr/lib/postgresql/*/bin/pgbench", "postgresql", "runs on the Sentry in long tests"),
    Need("check fuzz", "clang", "clang", "second compiler, fuzzer, sanitizers"),
    Need("fuzz", "/usr/lib/llvm-*/lib/clang/*/lib/*/libclang_rt.fuzzer*", "libclang-rt-dev", "clang's fuzzer runtime"),
    Need("fuzz", "llvm-cov", "llvm", "counts the lines of the Sentry that tests run"),
    Need("check guest bench", "passt", "passt", "networks of guests that need no rights (--net user)"),
    Need("check guest bench", "ip", "iproute2", "makes the networks of tests"),
    Need(
        "check guest fuzz bench kata conformance",
        "nanopb_generator",
        "nanopb",
        "generates C code of the kata agent's messages",
    ),
    Need(
        "check guest fuzz bench kata conformance",
        "/usr/include/nanopb/pb.h",
        "libnanopb-dev",
        "the kata agent's messages",
    ),
    Need(
        "check guest fuzz bench kata conformance",
        "/usr/include/google/protobuf/empty.proto",
        "libprotobuf-dev",
        "the message that says nothing, of the kata agent",
    ),
    Need("guest bench kata conformance", "crun", "crun", "makes containers in the image of kata's guest"),
    Need("guest bench kata conformance", "mkfs.erofs", "erofs-utils", "makes the image of kata's guest"),
    Need("check guest bench conformance", "containerd", "containerd", "tests of the containerd shim of examples/kata"),
    Need("guest bench conformance", "podman", "podman", "calls the container runtime as its users do"),
    Need("guest", "newuidmap", "uidmap", "user namespaces of podman as an ordinary user"),
    Need("guest", "slirp4netns", "slirp4netns", "the network of podman as an ordinary user, beside passt"),
    Need("guest", "fuse-overlayfs", "fuse-overlayfs", "podman's storage for an ordinary user on older kernels"),
    Need("check guest bench conformance", "nft", "nftables", "networks of podman, and of sandboxes with rules"),
    Need("long guest", "dockerd", "docker.io", "calls the container runtime as its users do"),
    Need("long guest", "docker", "docker-cli", "the command line of docker.io"),
    Need("long guest", "docker-compose", "docker-compose", "starts containers of docker.io"),
    Need("long", "/usr/sbin/slurmctld-wlm", "slurmctld", "the controller of a Slurm cluster"),
    Need("long", "/usr/sbin/slurmd-wlm", "slurmd", "the nodes of a Slurm cluster"),
    Need("long", "sbatch", "slurm-client", "submits the jobs of examples/server to it"),
    Need("check", "umoci", "umoci", "makes images in tests"),
    Need("check guest", "skopeo", "skopeo", "copies images for the container runtime"),
    Need("check", "mkfs.erofs", "erofs-utils", "makes the file systems of stored images"),
    Need("check", "buildah", "buildah", "builds images from Dockerfiles"),
    Need("check", "docker-registry", "docker-registry", "the registry of the image store's tests"),
    Need("check guest", "openssl", "openssl", "makes the certificates of tests"),
    Need("guest bench conformance", "runc", "runc", "a peer of the container runtime"),
    Need("bench conformance", "runsc", "runsc", "another: gVisor"),
    Need("guest conformance", "catatonit", "catatonit", "podman's --init"),
    Need(
        "guest bench conformance",
        "/usr/lib/cni/bridge",
        "containernetworking-plugins",
        "networks of such pods",
    ),
    Need("docs", "dot", "graphviz", "draws the diagrams of the documents"),
    Need("prove", "cbmc", "cbmc", "proves the ring code"),
    Need("bench", "iperf3", "iperf3", "the network benchmark"),
    Need("bench", "fio", "fio", "the I/O benchmark"),
    Need("bench", "/usr/libexec/virtiofsd", "virtiofsd", "serves a directory to the benchmark's QEMU"),
)

KATA_PROGRAMS = ("pyvmm-oci-client", "pyvmm-shim-client", "pyvmm-face")
"""In the package of examples/kata; see its launcher/build.py."""
DEVELOPMENT = {"guest", "check", "docs", "fuzz", "bench", "kata", "conformance", "suites", "prove", "wheels"}
"""Groups that also need the Python packages of pyproject.toml's extra `dev`."""


def is_static(path: str) -> bool:
    """Whether the ELF program at `path` has no interpreter, so that it runs where no library is."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    start, size, count = (int.from_bytes(head[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    return head[:4] == b"\x7fELF" and all(head[start + i * size] != 3 for i in range(count))  # 3 is PT_INTERP


def is_there(what: str) -> bool:
    """Whether the program or file that a Need names is there."""
    if what.startswith("/"):
        return bool(glob.glob(what))
    if what == "static busybox":
        return is_static(shutil.which("busybox", path=SEARCH) or "")
    return shutil.which(what, path=SEARCH) is not None


def python_version(python: str) -> tuple[int, int]:
    """The version of an interpreter; (0, 0) if it does not run."""
    if named := re.search(r"/python(\d)\.(\d+)$", os.path.realpath(python)):
        return int(named[1]), int(named[2])
    try:
        code = "import sys; print(*sys.version_info[:2])"
        words = subprocess.run([python, "-ISc", code], capture_output=True, text=True).stdout.split()
        return int(words[0]), int(words[1])
    except (OSError, IndexError, ValueError):
        return 0, 0


def pick_python() -> tuple[str, tuple[int, int]]:
    """The interpreter to make .venv with: that of PYVMM_PYTHON, else the distribution's when it is new enough, since it
    starts fastest."""
    if chosen := os.environ.get("PYVMM_PYTHON"):
        found = shutil.which(chosen) or chosen
        version = python_version(found)
        if version >= OLDEST:
            return found, version
        wanted = ".".join(map(str, OLDEST))
        what = "is Python {}.{}".format(*version) if version > (0, 0) else "does not run"
        sys.exit(f"PYVMM_PYTHON={chosen} {what}: name an interpreter of Python {wanted} or newer")
    for python in ("/usr/bin/python3", shutil.which("python3") or "", sys.executable):
        version = python_version(python) if python else (0, 0)
        if version >= OLDEST:
            return python, version
    wanted = ".".join(map(str, OLDEST))
    sys.exit(f"Python {wanted} or newer is needed and not found; on Ubuntu 22.04: apt-get install python{wanted}-venv")


def python_needs(python: str, version: tuple[int, int]) -> list[Need]:
    """The packages that a distribution's interpreter needs besides its own."""
    if not python.startswith("/usr/bin/"):
        return []
    name = "python{}.{}".format(*version)
    return [
        Need("build", f"/usr/lib/{name}/ensurepip/__init__.py", f"{name}-venv", "makes .venv"),
        Need("build", f"/usr/include/{name}/Python.h", f"lib{name}-dev", "headers for the extension"),
        Need("check suites", f"/usr/lib/{name}/test/test_os.py", f"lib{name}-testsuite", "tests of the Sentry"),
    ]


def install_packages(missing: Sequence[Need]) -> None:
    """Install the packages of `missing` by apt-get; exits with a message when that is not possible."""
    reasons: dict[str, list[str]] = {}
    for need in missing:
        reasons.setdefault(need.package, []).append(need.why)
    packages = sorted(reasons)
    listed = ", ".join(f"{package} ({'; '.join(dict.fromkeys(reasons[package]))})" for package in packages)
    if shutil.which("apt-get") is None:
        sys.exit(f"missing, by their Debian names: {listed}\nThis system has no apt-get: install them, then run again.")
    prefix: list[str] = []
    if os.geteuid() != 0:
        command = f"apt-get install --no-install-recommends {' '.join(packages)}"
        if shutil.which("sudo") is None:
            sys.exit(f"missing: {listed}\nRun as root: {command}")
        prefix = ["sudo"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = [*prefix, *environment, "apt-get", "-qy", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"]
    with step(f"installing {listed}"):
        known = subprocess.run(["apt-cache", "show", *packages], capture_output=True).returncode == 0
        if not known:
            subprocess.run([*prefix, "apt-get", "-q", "update"], stdout=sys.stderr)
        if subprocess.run([*install, *packages], stdout=sys.stderr).returncode:
            # A package index that is too old names files that the mirror no longer has.
            subprocess.run([*prefix, "apt-get", "-q", "update"], stdout=sys.stderr)
            chosen = [installable(package) for package in packages]
            if status := subprocess.run([*install, *chosen], stdout=sys.stderr).returncode:
                sys.exit(f"apt-get failed with status {status}; missing: {listed}")


def installable(package: str) -> str:
    """`package`, or `package=VERSION` where the version that apt prefers needs what none of its sources has."""
    simulate = ["apt-get", "-qq", "--simulate", "install", "--no-install-recommends"]
    if subprocess.run([*simulate, package], capture_output=True).returncode == 0:
        return package
    rows = subprocess.run(["apt-cache", "madison", package], capture_output=True, text=True).stdout.splitlines()
    for row in rows:
        choice = f"{package}={row.split('|')[1].strip()}"
        if subprocess.run([*simulate, choice], capture_output=True).returncode == 0:
            return choice
    return package


def digest(*patterns: str) -> str:
    """A hash of the content of the files of the checkout that match."""
    total = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.join(ROOT, pattern))):
            with open(path, "rb") as file:
                content = file.read()
            total.update(f"{os.path.relpath(path, ROOT)} {len(content)}\n".encode() + content)
    return total.hexdigest()


class Stamp:
    """A file in .venv that says of which content a step was last done."""

    def __init__(self, name: str, content: str) -> None:
        self.path = os.path.join(VENV, f".stamp-{name}")
        self.content = content

    def is_current(self) -> bool:
        """Whether the step was done for this very content."""
        try:
            with open(self.path) as file:
                return file.read() == self.content
        except OSError:
            return False

    def set(self) -> None:
        """Note that the step was done."""
        with open(self.path, "w") as file:
            file.write(self.content)


def run(command: Sequence[str], **extra: str) -> None:
    """Run a command in the checkout; exits with its status when it fails."""
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **extra}, stdout=sys.stderr).returncode
    if status:
        sys.exit(f"`{' '.join(command)}` failed with status {status}")


def make_venv(python: str, version: tuple[int, int]) -> None:
    """Make .venv; again when it was made at another path, its interpreter is gone, or PYVMM_PYTHON names another."""
    config = os.path.join(VENV, "pyvenv.cfg")
    inside = os.path.join(VENV, "bin", "python")
    fits = python_version(inside) == version if "PYVMM_PYTHON" in os.environ else python_version(inside) >= OLDEST
    if os.path.exists(config) and os.path.exists(inside) and fits:
        with open(config) as file:
            if re.search(rf"^command = .*{re.escape(VENV)}$", file.read(), re.MULTILINE):
                return
    with step(f"making .venv with {python}"):
        run([python, "-m", "venv", "--clear", VENV])


def install_project(python: str, *, develop: bool) -> None:
    """Install the project, editable, with what it needs; with `develop` also what its development needs."""
    native = (
        *("vmm/native/*.[ch]", "vmm/native/*/*.[ch]", "vmm/virtio/*/*.[ch]", "vmm/virtio/*/*/*.[ch]"),
        *("vmm/faststart/native/*.[ch]", "vmm/native/build.py"),
    )
    content = digest("pyproject.toml", "setup.py", "bin/pyvmm")
    project, whole = Stamp("project-only", content), Stamp("project", content)
    extension = Stamp("extension", digest(*native))
    programs = all(
        os.path.exists(os.path.join(ROOT, "vmm", name))
        for name in ("native/pyvmm-broker", "native/pyvmm-fsd", "faststart/pyvmm-warm")
    )
    built = programs and glob.glob(os.path.join(ROOT, "vmm", "native", "_native*.so"))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-warn-script-location"]
    if not whole.is_current() and (develop or not project.is_current()):
        with step(f"installing pyvmm and {'its development needs' if develop else 'its Python packages'} into .venv"):
            run([*pip, "--editable", f"{ROOT}[dev]" if develop else ROOT])
        write_command(python)
        (whole if develop else project).set()
    elif not (built and extension.is_current()):
        # Outside of the environment proper: setuptools puts a hook in it that every start of Python would pay for.
        tools = os.path.join(VENV, "build-tools")
        with step("building the C extension"):
            if not os.path.isdir(tools):
                run([*pip, "--target", tools, *build_requirements()])
            run([python, os.path.join("vmm", "native", "build.py")], PYTHONPATH=tools)
    else:
        return
    keep_newest_extension()
    # cffi's generated file is there only now, so the digest is taken again.
    Stamp("extension", digest(*native)).set()


def compile_messages(python: str) -> None:
    """Compile the .proto files for pyvmm_kata.protocol.protobuf."""
    folder = os.path.join("examples", "kata")
    stamp = Stamp("messages", digest(os.path.join(folder, "proto", "*.proto"), os.path.join(folder, "proto", "*.py")))
    if not (
        stamp.is_current()
        and os.path.exists(os.path.join(ROOT, folder, "pyvmm_kata", "protocol", "protobuf", "messages.bin"))
    ):
        with step("compiling the messages of examples/kata"):
            run([python, os.path.join(folder, "proto", "compile.py")])
        stamp.set()


def compile_kata_programs(python: str) -> None:
    """Make the programs of examples/kata that are not Python."""
    folder = os.path.join("examples", "kata")
    stamp = Stamp("launcher", digest(*(os.path.join(folder, "launcher", kind) for kind in ("*.c", "*.h", "*.py"))))
    package = os.path.join(ROOT, folder, "pyvmm_kata")
    if not (stamp.is_current() and all(os.path.exists(os.path.join(package, name)) for name in KATA_PROGRAMS)):
        with step("compiling the programs of examples/kata"):
            run([python, os.path.join(ROOT, folder, "launcher", "build.py"), package])
        stamp.set()


def install_kata(python: str) -> None:
    """Install the container runtime of examples/kata, editable, with what it needs."""
    folder = os.path.join("examples", "kata")
    current = Stamp("kata", digest(os.path.join(folder, "pyproject.toml"), os.path.join(folder, "setup.py")))
    if not current.is_current():
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-warn-script-location"]
        with step("installing examples/kata and its Python packages into .venv"):
            run([*pip, "--editable", os.path.join(ROOT, folder)])
        current.set()
    write_command(python)  # they can be others although what is installed is the same


def install_sentry(python: str) -> None:
    """Install the Sentry of examples/sentry, editable: its command, and what it adds to `pyvmm doctor`."""
    folder = os.path.join("examples", "sentry")
    current = Stamp("sentry", digest(os.path.join(folder, "pyproject.toml")))
    if not current.is_current():
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        with step("installing examples/sentry into .venv"):
            run([*pip, "--editable", os.path.join(ROOT, folder)])
        current.set()
        write_command(python)
    with step("fetching the source of the Sentry's TCP/IP stack, where the cache has none of today"):
        run([python, "-m", "pyvmm_sentry.lwip"])


def install_sandbox(python: str) -> None:
    """Install the sandbox library of examples/sandbox, editable, and compile its program for guests."""
    folder = os.path.join("examples", "sandbox")
    package = os.path.join(ROOT, folder, "pyvmm_sandbox")
    current = Stamp("sandbox", digest(os.path.join(folder, "pyproject.toml"), os.path.join(folder, "guest", "*")))
    if not (current.is_current() and os.path.exists(os.path.join(package, "pyvmm-box"))):
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        with step("installing examples/sandbox into .venv"):
            run([python, os.path.join(ROOT, folder, "guest", "build.py"), package])
            run([*pip, "--editable", os.path.join(ROOT, folder)])
        current.set()


def install_example(python: str, name: str) -> None:
    """Install a package of examples/ that has nothing to compile, editable: its commands."""
    folder = os.path.join("examples", name)
    current = Stamp(name, digest(os.path.join(folder, "pyproject.toml"), os.path.join(folder, "setup.py")))
    if not current.is_current():
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        with step(f"installing examples/{name} into .venv"):
            run([*pip, "--editable", os.path.join(ROOT, folder)])
        current.set()


def fetch_terminal(python: str) -> None:
    """Fetch the terminal of the page of examples/server, where it is missing or another version."""
    package = os.path.join("examples", "server", "pyvmm_server", "page")
    current = Stamp("terminal", digest(os.path.join(package, "vendor.py")))
    if not (current.is_current() and os.path.isdir(os.path.join(ROOT, package, "static", "vendor"))):
        with step("fetching the terminal of the page of examples/server"):
            run([python, os.path.join(package, "vendor.py")])
        current.set()


def install_plotting(python: str) -> None:
    """Install matplotlib, which draws the benchmark's plot. The benchmark runs without it, too."""
    if not glob.glob(os.path.join(VENV, "lib", "python*", "site-packages", "matplotlib")):
        with step("installing matplotlib, which draws the benchmark's plot"):
            command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*command, "--editable", f"{ROOT}[bench]"], cwd=ROOT, stdout=sys.stderr)
        write_command(python)


def install_engines(python: str) -> None:
    """Install Ray and the client of PostgreSQL for examples/server. Tests of Ray are skipped where no wheel of it is
    made for this Python.
    """
    for name, requirement in (("ray", "ray >= 2.52"), ("psycopg", "psycopg[binary] >= 3.2")):
        if not glob.glob(os.path.join(VENV, "lib", "python*", "site-packages", name)):
            with step(f"installing {name} for examples/server"):
                command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", requirement]
                subprocess.run(command, cwd=ROOT, stdout=sys.stderr)


def install_builders(python: str) -> None:
    """Install what builds wheels: `build`, which makes them, and auditwheel."""
    if not glob.glob(os.path.join(VENV, "lib", "python*", "site-packages", "auditwheel")):
        with step("installing what builds wheels into .venv"):
            run(
                [
                    python,
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "install",
                    "--quiet",
                    "--editable",
                    f"{ROOT}[wheels]",
                ]
            )
        write_command(python)


def keep_newest_extension() -> None:
    """Remove older builds of the extension: two ways to build it give it two file names, and Python prefers one."""
    built = glob.glob(os.path.join(ROOT, "vmm", "native", "_native*.so"))
    for path in sorted(built, key=os.path.getmtime)[:-1]:
        os.remove(path)


def build_requirements() -> list[str]:
    """What pyproject.toml asks for at build time (tomllib is younger than the Python that may run this)."""
    with open(os.path.join(ROOT, "pyproject.toml")) as file:
        found = re.search(r"^requires = \[(.*)\]$", file.read(), re.MULTILINE)
    assert found is not None, "pyproject.toml has no line `requires = [...]`"
    return re.findall(r'"([^"]*)"', found[1])


def write_command(python: str) -> None:
    """Write the programs of .venv/bin that start often: no shell, no `site`, no search, the paths known."""
    warm = os.path.join(ROOT, "vmm", "faststart", "pyvmm-warm")
    if " " in warm + python or len(warm + python) > 250:  # not possible in a `#!` line
        return
    folder = "python{}.{}".format(*python_version(python))
    packages = os.path.join(VENV, "lib", folder, "site-packages")
    kata = os.path.join(ROOT, "examples", "kata")
    paths = [ROOT, packages, kata, os.path.join(ROOT, "examples", "sentry")]
    start = "import gc\n\ngc.disable()\nfrom vmm.cli.entry import begin as main\n"
    write_program(python, "pyvmm", paths, start, head=f"#!{warm} {python}\n")
    client = ""
    if glob.glob(os.path.join(VENV, "lib", folder, "site-packages", "pyvmm_kata-*")):
        client = os.path.join(kata, "pyvmm_kata", KATA_PROGRAMS[0])
        # sh reads up to the exec, and Python a string
        head = f"#!/bin/sh\n''':'\nexec {client} {warm} {python} \"$0\" -- \"$@\"\n'''\n"
        start = "import gc\n\ngc.disable()\nfrom pyvmm_kata.entry import begin\n"
        oci = "begin('pyvmm_kata.oci.main')"
        write_program(python, "pyvmm-oci", paths, start, head=head, call=oci)
        shim = "from pyvmm_kata.shim.main import main\n"
        write_program(python, "containerd-shim-pyvmm-v2", paths, shim)
        pool = "from pyvmm_kata.oci.pool import main\n"
        write_program(python, "pyvmm-poold", paths, pool)
    if glob.glob(os.path.join(VENV, "lib", folder, "site-packages", "pyvmm_sentry-*")):
        head = ""
        if client:
            oci = os.path.join(VENV, "bin", "pyvmm-oci")
            head = f"#!/bin/sh\n''':'\nexec {client} --runsc \"$0\" {warm} {python} {oci} -- \"$@\"\n'''\n"
        write_program(python, "pyvmm-runsc", paths, "from pyvmm_sentry.__main__ import main\n", head=head)


def write_program(
    python: str, name: str, paths: Sequence[str], start: str, *, head: str = "", call: str = "main()"
) -> None:
    """Write .venv/bin/`name`, whose exit status is that of `call` after the lines of `start`; `head` is what has that
    run."""
    path = os.path.join(VENV, "bin", name)
    head = head or f"#!{python} -IS\n"
    text = f"{head}import sys\n\nsys.path += {list(paths)!r}\n{start}\nsys.exit({call})\n"
    if os.path.exists(path):
        with open(path) as file:
            if file.read() == text:
                return  # an image of what it starts is of the file as it is
    with open(path + ".new", "w") as file:
        file.write(text)
    os.chmod(path + ".new", 0o755)
    os.replace(path + ".new", path)


def check_groups(groups: Sequence[str]) -> None:
    """Exit with a message when there is no group of one of these names."""
    known = DEVELOPMENT | {group for need in NEEDS for group in need.groups.split()}
    if unknown := set(groups) - known:
        sys.exit(f"no group {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")


def main(groups: Sequence[str]) -> None:
    """Install what the named groups need."""
    check_groups(groups)
    wanted = {"build", *groups}
    if "lab" in wanted and why_unusable() is None:
        wanted.discard("lab")
    python, version = pick_python()
    needs = [*NEEDS, *python_needs(python, version)]
    missing = [need for need in needs if wanted & set(need.groups.split()) and not is_there(need.what)]
    if missing:
        install_packages(missing)
        still = [need.what for need in missing if not is_there(need.what)]
        if still:
            say(f"still not found after the installation: {', '.join(still)}")
    make_venv(python, version)
    develop = not DEVELOPMENT.isdisjoint(wanted)
    install_project(os.path.join(VENV, "bin", "python"), develop=develop)
    if develop:
        compile_messages(os.path.join(VENV, "bin", "python"))
        compile_kata_programs(os.path.join(VENV, "bin", "python"))
        install_kata(os.path.join(VENV, "bin", "python"))
        install_sentry(os.path.join(VENV, "bin", "python"))
        install_sandbox(os.path.join(VENV, "bin", "python"))
        for name in ("firecracker", "mcp", "server"):
            install_example(os.path.join(VENV, "bin", "python"), name)
        fetch_terminal(os.path.join(VENV, "bin", "python"))
    if "long" in wanted:
        install_engines(os.path.join(VENV, "bin", "python"))
    if "bench" in wanted:
        install_plotting(os.path.join(VENV, "bin", "python"))
    if "wheels" in wanted:
        install_builders(os.path.join(VENV, "bin", "python"))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
