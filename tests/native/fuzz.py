"""``python -m tests.native.fuzz``: runs the fuzzers for a while, starting from the kept corpus.

An input that breaks something is left in ``build/fuzz`` and named. With ``--keep`` what was found goes into the corpus,
as few inputs as reach all that was reached. With ``--coverage`` nothing is run but the kept corpus and the C tests, and
the lines of each file that they reach are told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.native.fuzz_python import coverage as python_coverage
from tests.native.programs import BUILD, HERE, VMM, compiler, fuzz_agent, names_of_tests, program

TARGETS = ("fuzz_ring", "fuzz_blk", "fuzz_fs", "fuzz_vsock", "fuzz_net", "fuzz_small", "fuzz_agent", "fuzz_python")
CORPUS = HERE / "corpus"
FOUND = BUILD.parent / "fuzz"
MAX_LEN = 2048
TESTS = (
    *("test_ring", "test_packed", "test_blk", "test_race", "test_fs"),
    *("test_vsock", "test_net", "test_small", "test_faults"),
)
"""Programs whose code is counted as well; in a process of its own pyvmm-fsd has the code of test_fs."""
ENGINES = {"test_blk": ("sync", "uring", "auto"), "test_race": ("sync", "uring", "auto")}
BY_A_SIGNAL = {"file_size_limit"}
"""Tests that end so: what they have counted is lost."""
LEAST = 0.9
"""The part of each file's lines that has to be reached."""
ELSEWHERE = {
    "native/base/seccomp.c": "filters, which sanitizers do not go with",
    "native/calls/calls.c": "filters",
    "native/dataplane/thread.c": "the starter of threads, in the jail",
    "native/ram/ram.c": "snapshots, which no guest reaches",
    "virtio/image.py": "opening images, which no guest does",
    "machine/jailed.py": "servers of shares, hosts without room",
}
"""What the tests in Python reach, not those in C nor the fuzzers."""


def archive(target: str) -> Path:
    """Where the kept inputs of that fuzzer are, in one file: thousands of them would be most files of the project."""
    return CORPUS / f"{target.removeprefix('fuzz_')}.tar.xz"


def corpus(target: str) -> Path:
    """A folder with the kept inputs of that fuzzer, unpacked where it is not or when the archive is another."""
    source = archive(target)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    folder = BUILD / "corpus" / f"{target}-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            fresh = Path(name) / "inputs"
            with tarfile.open(source) as packed:
                packed.extractall(fresh, filter="data")
            try:
                fresh.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def pack(folder: Path, target: str) -> None:
    """Make the archive of the inputs in *folder*; the same inputs give the same file."""
    new = archive(target).with_suffix(".new")
    with tarfile.open(new, "w:xz") as packed:
        for path in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                packed.addfile(entry, content)
    new.replace(archive(target))


def fuzzer(target: str) -> list[str]:
    """The command of a target, whose program is built where it is not."""
    if target == "fuzz_python":
        return [sys.executable, "-m", "tests.native.fuzz_python"]
    return [str(fuzz_agent() if target == "fuzz_agent" else program(target, "fuzzer", ()))]


def fuzz(target: str, seconds: int) -> bool:
    """Run one fuzzer; False when it found something, which it has then said."""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    command = [
        *fuzzer(target),
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={FOUND}/{target}-",
        str(found),
        str(corpus(target)),
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line), "?")
    print(f"{target}: {runs} runs, {len(list(found.iterdir()))} inputs found", flush=True)
    if done.returncode:
        print(done.stderr)
    return done.returncode == 0


def replay(target: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run every input in a directory once."""
    command = [*fuzzer(target), "-runs=0", f"-max_len={MAX_LEN}", f"-artifact_prefix={directory}/", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def keep(target: str) -> None:
    """Make the corpus the smallest set of inputs that reaches what it and the found ones reach."""
    with tempfile.TemporaryDirectory() as merged:
        command = [*fuzzer(target), "-merge=1", merged, str(corpus(target)), str(FOUND / target)]
        subprocess.run(command, check=True, capture_output=True)
        pack(Path(merged), target)


def counted(programs: list[Path], folder: Path) -> dict[str, tuple[int, int]]:
    """Of each of our C files the lines that were reached and those that there are, by the profiles in a folder."""
    merged = folder / "merged"
    profiles = [str(path) for path in folder.glob("*.profraw")]
    subprocess.run(["llvm-profdata", "merge", "-sparse", *profiles, "-o", str(merged)], check=True)
    objects = [word for path in programs for word in ("-object", str(path))][1:]
    command = ["llvm-cov", "export", *objects, f"-instr-profile={merged}", "-summary-only"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    lines = {Path(each["filename"]): each["summary"]["lines"] for each in report["data"][0]["files"]}
    return {
        str(path.relative_to(VMM)): (of["covered"], of["count"])
        for path, of in lines.items()
        if path.suffix == ".c" and path.is_relative_to(VMM)
    }


def coverage() -> bool:
    """Tell which part of each file the kept corpus reaches, and the C tests with it; False when it is too little."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = []
        for target in TARGETS:
            if target not in ("fuzz_agent", "fuzz_python"):
                programs.append(program(target, "counted", ()))
                command = [str(programs[-1]), "-runs=0", f"-max_len={MAX_LEN}", str(corpus(target))]
                subprocess.run(command, env=_profile(folder, target), stderr=subprocess.DEVNULL, check=True)
        fuzzed = counted(programs, folder)
        for target in TESTS:
            programs.append(program(target, "counted-test"))
            for test in {*names_of_tests(target)} - BY_A_SIGNAL:
                for engine in ENGINES.get(target, ("none",)):
                    # a disk whose file is in memory is served in another way than one on a disk
                    for where in ("/dev/shm", name) if target in ENGINES else ("/dev/shm",):
                        run = f"{target}-{test}-{engine}-{where == name}"
                        env = {**_profile(folder, run), "ENGINE": engine, "DIR": where}
                        subprocess.run([str(programs[-1]), test], env=env, stdout=subprocess.DEVNULL, check=False)
        tested = counted(programs, folder)
    print(f"{'file':36} lines  fuzzers  and C tests")
    enough = True
    for path, (reached, lines) in sorted(python_coverage(corpus("fuzz_python")).items()):
        note = f"           in Python's tests: {ELSEWHERE[path]}" if path in ELSEWHERE else ""
        if reached < LEAST * lines and not note:
            enough, note = False, f"           less than {LEAST:.0%}"
        print(f"{path:36} {lines:5} {reached / lines:8.0%}{note}")
    for path, (reached, lines) in sorted(tested.items(), key=lambda item: item[1][0] / item[1][1]):
        note = f"  in Python's tests: {ELSEWHERE[path]}" if path in ELSEWHERE else ""
        if reached < LEAST * lines and not note:
            enough, note = False, f"  less than {LEAST:.0%}"
        print(f"{path:36} {lines:5} {fuzzed.get(path, (0, 1))[0] / lines:8.0%} {reached / lines:8.0%}{note}")
    return enough


def _profile(folder: Path, name: str) -> dict[str, str]:
    return {**os.environ, "LLVM_PROFILE_FILE": str(folder / f"{name}.profraw")}


def main(argv: list[str]) -> int:
    """0: nothing found; 1: something was, or too little is reached; 2: no clang here."""
    parser = argparse.ArgumentParser(prog="python -m tests.native.fuzz", description="Fuzz what guests reach.")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--seconds", type=int, default=30, metavar="N", help="for each target (default 30)")
    how_long.add_argument("--hours", type=float, metavar="H", help="for all targets together")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus, minimised")
    parser.add_argument("--coverage", action="store_true", help="only tell which lines the kept corpus reaches")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default all)")
    options = parser.parse_args(argv)
    targets = options.targets or TARGETS
    if unknown := sorted(set(targets) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}")
    if compiler("fuzzer") is None:
        print("fuzz: needs clang and its runtime: apt-get install clang libclang-rt-dev", file=sys.stderr)
        return 2
    if options.coverage:
        if shutil.which("llvm-cov") is None:
            print("fuzz: coverage needs llvm-cov: apt-get install llvm", file=sys.stderr)
            return 2
        return 0 if coverage() else 1
    seconds = options.seconds if options.hours is None else int(options.hours * 3600 / len(targets))
    if seconds < 1:
        parser.error("that is less than a second for each target")
    clean = True
    for target in targets:
        print(f"{target}: {seconds} s from {len(list(corpus(target).iterdir()))} kept inputs", flush=True)
        clean &= fuzz(target, seconds)
        if options.keep:
            keep(target)
    print("fuzz: nothing found" if clean else f"fuzz: found something, see {FOUND}")
    return 0 if clean else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # what was found is kept
        sys.exit(130)
