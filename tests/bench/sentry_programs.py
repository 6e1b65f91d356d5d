"""Ordinary programs on the Sentry in a machine, beside gVisor and beside Linux in a machine, in the lab where one
instruction is one nanosecond: `python -m tests.bench.sentry_programs ARCHIVE FILE` there writes the figures.

All of them run in one root: Python, find, git and gcc of the host, packed there and unpacked into a tmpfs. On the
Sentry and on Linux it is a shared directory that the guest may cache; gVisor has it as `runsc do --root`. The program
`programs` runs each of them several times in one sandbox, and prints the first time and the least of the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import own_lab, sentry
from tests.bench.child import ChildError
from tests.bench.row import Row, compare
from tests.bench.sentry_lab import machine
from tests.lab import LabError
from tests.sentry import small_root
from tools import guest
from tools.where import ROOT

SOURCE = ROOT / "tests" / "sentry" / "src" / "programs.c"
LINUX_MUST, MEMORY = 1.1, "512M"
TURNS, FILES = 4, 40
NAMES = {
    "stat": ("stat of a file of the root", 0.1),
    "open-close": ("open and close of a file of the root", 0.2),
    "python": ("python3 -c pass", 0.5),
    "find": ("find /usr", 0.5),
    "git": ("git status", 0.5),
    "gcc": ("gcc hello.c", 0.5),
}
"""Titles, and the most in proportion to runsc."""
HELLO = '#include <stdio.h>\nint main(void) { return !puts("hello"); }\n'


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _add_compiler(root: Path) -> None:
    """gcc, what it runs, and what it links a program with."""
    for name in ("gcc", "as", "ld"):
        path = Path("/usr/bin", name).resolve()
        small_root.copy(root, str(path))
        if path.name != name:
            (root / "usr/bin" / name).symlink_to(path.name)
    for name in ("cc1", "collect2", "lto-wrapper"):
        small_root.copy(root, os.path.normpath(_printed("/usr/bin/gcc", f"-print-prog-name={name}")))
    names = (
        "liblto_plugin.so",
        "crt1.o",
        "Scrt1.o",
        "crti.o",
        "crtn.o",
        "libc.so",
        "libc.so.6",
        "libc_nonshared.a",
        "libm.so.6",
    )
    for name in (
        *names,
        "crtbegin.o",
        "crtbeginS.o",
        "crtend.o",
        "crtendS.o",
        "libgcc.a",
        "libgcc_s.so",
        "libgcc_s.so.1",
    ):
        found = os.path.normpath(_printed("/usr/bin/gcc", f"-print-file-name={name}"))
        if os.path.isabs(found):
            small_root.copy(root, found)
    headers = set()
    made = _printed("/usr/bin/gcc", "-M", "-include", "stdio.h", "-x", "c", "/dev/null")
    for word in made.split():
        if word.startswith("/usr"):
            headers.add(os.path.normpath(word))
    for header in sorted(headers):
        small_root.copy(root, header)


def make_root(root: Path) -> None:
    """Fill a folder with the programs, a repository, and the program that measures."""
    small_root.make(root)
    for program in ("/usr/bin/find", "/usr/bin/git"):
        small_root.copy(root, program)
    _add_compiler(root)
    small_root.add_libraries(
        root, [path for path in (root / "usr").rglob("*") if os.access(path, os.X_OK) and path.is_file()]
    )
    (root / "hello.c").write_text(HELLO)
    repository = root / "repository"
    for number in range(FILES):
        path = repository / f"folder{number % 4}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 100)
    git = ("/usr/bin/git", "-C", str(repository), "-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "files")):
        _printed(*git, *words)
    subprocess.run(["/usr/bin/gcc", "-O1", "-static", "-o", str(root / "programs"), str(SOURCE)], check=True)


@contextlib.contextmanager
def unpacked(archive: str, root: Path) -> Iterator[Path]:
    """A root from its archive, with devices in it. Python leaves compiled modules there, so each kernel has its own."""
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="tar")
    for name, number in (("null", 3), ("zero", 5)):
        os.mknod(root / "dev" / name, 0o20666, os.makedev(1, number))
    os.mknod(root / "dev" / "console", 0o20600, os.makedev(5, 1))
    yield root
    shutil.rmtree(root)


def figures_of(text: str) -> dict[str, float]:
    """Nanoseconds by name."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            found[words[0]] = float(words[1])
    if set(found) != {name + end for name in NAMES for end in ("", "-first")}:
        raise LabError(f"not what programs.c prints: {text!r}")
    return found


def boot(kernel: str, root: Path, cmdline: str, *words: str) -> dict[str, Any]:
    """Run it as the first program of a machine whose root is a shared directory."""
    share = f"{root},cache=always,locks=guest,tag=rootfs"
    options = ("--share", share, "--memory", MEMORY)
    text, _, stats = machine(kernel, None, *words, cmdline=cmdline, options=options)
    return {**figures_of(text), "stats": stats}


def measure_here(folder: Path, archive: str) -> dict[str, Any]:
    """In the lab.

    :param archive: of :func:`make_root`
    """
    sys.path.append(str(ROOT / "examples" / "sentry"))
    from pyvmm_sentry import program

    linux = "root=rootfs rootfstype=virtiofs rw init=/programs"
    figures: dict[str, Any] = {}
    with unpacked(archive, folder / "root") as root:
        figures["kvm"] = boot(str(program.kernel()), root, "", "/programs", str(TURNS))
    with unpacked(archive, folder / "root") as root:
        figures["linux"] = boot(guest.kernel(), root, linux, str(TURNS))
    for platform in ("systrap", "ptrace"):
        with unpacked(archive, folder / "root") as root:
            head = [*sentry.RUNSC, f"--platform={platform}", f"--root={folder}", "do", f"--root={root}", "--cwd=/"]
            done = subprocess.run(
                [*head, "/programs", str(TURNS)], stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
        if done.returncode:
            raise ChildError(f"runsc ended with status {done.returncode}\n{done.stdout}{done.stderr}")
        figures[f"runsc-{platform}"] = figures_of(done.stdout)
    return figures


def measure(folder: Path) -> dict[str, Any]:
    """The same, from outside of the lab."""
    archive = folder / "sentry-programs.tar"
    with tempfile.TemporaryDirectory(dir=folder) as place, tarfile.open(archive, "w") as tar:
        make_root(Path(place, "root"))
        tar.add(Path(place, "root"), ".")
    try:
        figures: dict[str, Any] = own_lab.measure("tests.bench.sentry_programs", folder, str(archive), icount=True)
    finally:
        archive.unlink()
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    ours, peers = figures["kvm"], [figures[name] for name in figures if name.startswith("runsc-")]
    found, linux = [], []
    for end, when in (("", ""), ("-first", ", first run")):
        for name, (title, must) in NAMES.items():
            label, value, best = (
                f"Sentry on kvm: {title}{when}",
                ours[name + end],
                min(peer[name + end] for peer in peers),
            )
            found.append(compare(label, value, best, "instr", peer_name="runsc", must=None if end else must))
            label, peer = f"{label}, beside Linux", figures["linux"][name + end]
            linux.append(
                compare(label, value, peer, "instr", peer_name="Linux guest", must=None if end else LINUX_MUST)
            )
    return [*found, *linux]


if __name__ == "__main__":
    own_lab.write(measure_here, "/run")
