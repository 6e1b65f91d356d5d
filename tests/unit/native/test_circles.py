"""No two C files need each other, however far around: what a file uses lies in files that do not use it."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from vmm.native import build


def test_no_c_files_need_each_other(tmp_path: Path) -> None:
    sources = [*build.SOURCES, *build.SERVER_ONLY]
    compile_all = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O0", "-w", "-c", f"-I{build.HERE}", *sources]
    subprocess.run(compile_all, check=True, cwd=tmp_path)
    defined, used = defaultdict(set), defaultdict(set)
    out = subprocess.run(["nm", "-A", *tmp_path.glob("*.o")], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        path, _, rest = line.partition(":")
        *_, kind, name = rest.split()
        if kind == "U":
            used[path].add(name)
        elif kind.isupper():
            defined[name].add(path)
    needs = {path: {other for name in names for other in defined[name]} for path, names in used.items()}
    assert sum(map(len, needs.values())) > 100
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(Path(path).stem for path in reversed(error.args[1]))) from None
