"""``python -m tests.native.prove``: proofs of the code that reads the guest's rings, by CBMC, a bounded model checker.

src/prove_ring.c says what is proved: for every content of the guest's memory, no byte outside of it is touched, and
every step ends.  The bound is the size of the queue.  That the proofs can fail is seen at the end: with a check of the
code's taken out, each of them has to.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.native.programs import HERE
from tools.where import ROOT

SOURCE = HERE / "src" / "prove_ring.c"
PROOFS = (
    "address_any",
    "split_pop_any",
    "split_give_back",
    "split_tell",
    "packed_pop_any",
    "packed_give_back",
    "packed_tell",
)
LOOPS = {"split_fill.0": 1, "split_add_indirect.0": 2, "packed_pop.0": 1, "packed_add_indirect.0": 2}
"""How often they may go round, in sizes of the queue, and once more to see that it was too often."""
BROKEN = (
    ("base/guest_access.c", "len > r->size - (gpa - r->gpa)", "len > r->size", "address_any"),
    ("ring/ring_split.c", "unlikely(head > ring->mask)", "0", "split_pop_any"),
    ("ring/ring_split.c", "unlikely(++hops > ring->mask)", "0", "split_pop_any"),
    ("ring/ring_split.c", "unlikely(i >= count)", "0", "split_pop_any"),
    ("ring/ring_packed.c", "unlikely(p.id >= ring->config.size)", "0", "packed_pop_any"),
    ("ring/ring_chain.c", "n >= chain->max || n >= RING_MAX_SEGMENTS", "0", "packed_pop_any"),
)
"""A check, what stands in its place, and the proof that misses it."""


def prove(name: str, size: int, native: Path) -> tuple[bool, str]:
    """Whether it holds, and what CBMC printed.

    :param native: the folder of the C sources
    :raises RuntimeError: CBMC came to no end
    """
    bounds = ",".join([*(f"{loop}:{turns * size + 2}" for loop, turns in LOOPS.items()), "any.0:1024"])
    command = ["cbmc", f"-I{native}", "-D_GNU_SOURCE", f"-DSIZE={size}", str(SOURCE), "--function", name]
    command += ["--object-bits", "11", "--unwind", "17", "--unwindset", bounds, "--unwinding-assertions"]
    command += ["--pointer-check", "--bounds-check", "--div-by-zero-check", "--undefined-shift-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 10):  # 10: there is a counterexample
        raise RuntimeError(f"cbmc: {name}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
    return done.returncode == 0, done.stdout


def show(name: str, size: int) -> bool:
    """Prove one, and say how that went."""
    began = time.monotonic()
    holds, output = prove(name, size, ROOT / "vmm" / "native")
    checks = output.rpartition("** ")[2].splitlines()[0] if "** " in output else ""
    print(f"{name}: {'holds' if holds else 'FAILED'}, {checks}, {time.monotonic() - began:.0f} s", flush=True)
    if not holds:
        print("\n".join(line for line in output.splitlines() if "FAILURE" in line))
    return holds


def notices(path: str, check: str, instead: str, proof: str) -> bool:
    """Whether a proof fails without a check; said."""
    with tempfile.TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        shutil.copytree(ROOT / "vmm" / "native", native, ignore=shutil.ignore_patterns("*.o", "*.so", "__pycache__"))
        text = (native / path).read_text()
        if text.count(check) != 1:
            raise RuntimeError(f"{path}: `{check}` is not there once")
        (native / path).write_text(text.replace(check, instead))
        holds, _ = prove(proof, 2, native)
    print(f"without `{check}`: {proof} {'HOLDS' if holds else 'fails, as it should'}", flush=True)
    return not holds


def main(argv: list[str]) -> int:
    """0: all holds; 1: something does not; 2: no CBMC here."""
    parser = argparse.ArgumentParser(prog="python -m tests.native.prove", description="Prove the ring code.")
    parser.add_argument("--size", type=int, default=4, choices=(1, 2, 4, 8), help="of the queue (default 4)")
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help=f"of {', '.join(PROOFS)} (default all)")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.proofs) - set(PROOFS)):
        parser.error(f"no such proof: {', '.join(unknown)}")
    if shutil.which("cbmc") is None:
        print("prove: needs CBMC: apt-get install cbmc", file=sys.stderr)
        return 2
    os.nice(10)
    wanted = options.proofs or PROOFS
    fine = [show(name, options.size) for name in wanted]
    fine += [notices(*broken) for broken in BROKEN if broken[3] in wanted]
    print("prove: all holds" if all(fine) else "prove: something does not hold")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
