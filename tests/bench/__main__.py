"""`python -m tests.bench`: measure everything, print a table, write JSON and a plot into build/bench/."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import artefacts, install, results, startup
from tests.bench.child import ChildError
from tests.bench.inside import Spec
from tests.bench.stage import StageError
from tests.lab import Lab, LabError
from tools.step import step

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench"
PARTS = ("startup", "boot", "memory", "fio")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"one part: {', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: to see that it works")
    parser.add_argument("--kernel", metavar="FILE", help="a vmlinux to use instead of the project's")
    parser.add_argument("--plot", default="png", choices=("png", "svg", "none"), help="what to draw (default: png)")
    return parser.parse_args(argv)


def measure_in_lab(lab: Lab, part: str, spec: Spec) -> Any:
    """Run one part in the lab and return its figures. Raises LabError when it fails."""
    request, result = OUTPUT / f"{part}.spec.json", OUTPUT / f"{part}.raw.json"
    request.write_text(json.dumps(asdict(spec) | {"result": str(result)}))
    result.unlink(missing_ok=True)
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    status = lab.run([python, "-m", "tests.bench.inside", part, str(request)], cwd=ROOT)
    if status:
        raise LabError(f"measuring {part} failed with status {status}")
    return json.loads(result.read_text())


def main(argv: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = parse(argv)
    parts = options.only or PARTS
    quick = options.quick
    OUTPUT.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    begin = time.monotonic()
    try:
        with step("bench: kernel, disks, an installation of pyvmm, and the root to run from"):
            made = artefacts.make(options.kernel)
            pyvmm = install.install(OUTPUT / "env")
            archives = {fio: OUTPUT / f"stage-{'fio' if fio else 'boot'}.tar" for fio in (False, True)}
            for fio, archive in archives.items():
                if ("fio" in parts) if fio else set(parts) & {"boot", "memory"}:
                    artefacts.make_stage(archive, pyvmm, made, fio=fio)
        from vmm.boot import default_cmdline

        spec = Spec(
            stage="",
            result="",
            pyvmm=str(pyvmm),
            kernel="/bench/vmlinux",
            initrd="/bench/initrd",
            disk="/bench/disk",
            cmdline=default_cmdline(),
            repeat=5,
            seconds=5,
        )
        if "startup" in parts:
            with step("bench: start-up, on this machine itself"):
                figures["startup"] = startup.measure(str(pyvmm), made.kernel, 5 if quick else 25)
        if "boot" in parts:
            change = {"repeat": 1 if quick else 5, "stage": str(archives[False])}
            with step("bench: cold boot, in a lab that counts instructions"), Lab(icount=True) as lab:
                figures["boot"] = measure_in_lab(lab, "boot", Spec(**asdict(spec) | change))
        for part in (name for name in ("memory", "fio") if name in parts):
            change = {"repeat": 1 if quick else 3, "seconds": 1 if quick else 5}
            change["stage"] = str(archives[part == "fio"])
            with step(f"bench: {part}, in a lab of 2 CPUs"), Lab(cpus=2) as lab:
                figures[part] = measure_in_lab(lab, part, Spec(**asdict(spec) | change))
    except (install.InstallError, StageError, ChildError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        for archive in OUTPUT.glob("stage-*.tar"):
            archive.unlink()
    rows = results.rows(figures)
    path = OUTPUT / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.write(path, rows, figures)
    print(results.table(rows))
    print(f"raw figures: {path}   ({time.monotonic() - begin:.0f} s in all)")
    if options.plot != "none":
        from tests.bench import plot

        print(plot.draw(rows, path.with_suffix("." + options.plot)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
