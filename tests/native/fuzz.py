"""``python -m tests.native.fuzz``: runs the fuzzers for a while, starting from the kept corpus.

An input that breaks something is left in ``build/fuzz`` and named; move it into the corpus with the fix. With
``--keep`` what was found goes into the corpus, as few inputs as reach all that was reached.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kata.programs import fuzz_agent
from tests.native.programs import BUILD, HERE, compiler, program

TARGETS = ("fuzz_ring", "fuzz_blk", "fuzz_fs", "fuzz_vsock", "fuzz_net", "fuzz_small", "fuzz_agent")
CORPUS = HERE / "corpus"
FOUND = BUILD.parent / "fuzz"
MAX_LEN = 2048


def corpus(target: str) -> Path:
    """Where the kept inputs of that fuzzer are."""
    return CORPUS / target.removeprefix("fuzz_")


def fuzzer(target: str) -> str:
    """The program of a target, built where it is not."""
    return str(fuzz_agent() if target == "fuzz_agent" else program(target, "fuzzer", ()))


def fuzz(target: str, seconds: int) -> bool:
    """Run one fuzzer; False when it found something, which it has then said."""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    command = [
        fuzzer(target),
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
    command = [fuzzer(target), "-runs=0", f"-max_len={MAX_LEN}", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def keep(target: str) -> None:
    """Make the corpus the smallest set of inputs that reaches what it and the found ones reach."""
    kept = corpus(target)
    with tempfile.TemporaryDirectory(dir=CORPUS) as merged:
        command = [fuzzer(target), "-merge=1", merged, str(kept), str(FOUND / target)]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(kept)
        shutil.copytree(merged, kept)


def main(argv: list[str]) -> int:
    """0: nothing found; 1: something was; 2: no clang here."""
    parser = argparse.ArgumentParser(prog="python -m tests.native.fuzz", description="Fuzz what is written in C.")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", help="for each target (default 30)")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus, minimised")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default all)")
    options = parser.parse_args(argv)
    targets = options.targets or TARGETS
    if unknown := sorted(set(targets) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}")
    if compiler("fuzzer") is None:
        print("fuzz: needs clang and its runtime: apt-get install clang libclang-rt-dev", file=sys.stderr)
        return 2
    clean = True
    for target in targets:
        print(
            f"{target}: {options.seconds} s from {len(list(corpus(target).iterdir()))} kept inputs",
            flush=True,
        )
        clean &= fuzz(target, options.seconds)
        if options.keep:
            keep(target)
    print("fuzz: nothing found" if clean else f"fuzz: found something, see {FOUND}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
