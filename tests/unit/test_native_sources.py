"""C files need each other one way only, and the extension, its headers and its type stub say the same."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tools import stub
from tools.where import ROOT
from vmm import native
from vmm.native import build, ffi, lib

STUB = Path(native.__file__).with_name("_native.pyi")


class Symbols(NamedTuple):
    """What each object file defines for others, and what it uses of others."""

    defined: dict[str, set[str]]
    used: dict[str, set[str]]


@pytest.fixture(scope="module")
def symbols(tmp_path_factory: pytest.TempPathFactory) -> Symbols:
    folder = tmp_path_factory.mktemp("objects")
    sources = [*build.SOURCES, *build.SERVER_ONLY]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O0", "-w", *(f"-I{path}" for path in build.INCLUDES)]
    subprocess.run(["gcc", *flags, "-c", *sources], check=True, cwd=folder)
    found = Symbols(defaultdict(set), defaultdict(set))
    out = subprocess.run(["nm", "-A", *folder.glob("*.o")], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        path, _, rest = line.partition(":")
        *_, kind, name = rest.split()
        if kind == "U":
            found.used[path].add(name)
        elif kind.isupper():
            found.defined[name].add(path)
    return found


def test_no_c_files_need_each_other(symbols: Symbols) -> None:
    needs = {path: {other for name in names for other in symbols.defined[name]} for path, names in symbols.used.items()}
    assert sum(map(len, needs.values())) > 100
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(Path(path).stem for path in reversed(error.args[1]))) from None


def test_what_only_its_own_file_uses_is_static(symbols: Symbols) -> None:
    """Or Python calls it, or C tests do."""
    others = {name for names in symbols.used.values() for name in names} | {"main", *dir(lib)}
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "native" / "src").glob("*.[ch]"))
    alone = {name for name in symbols.defined if name not in others and not re.search(rf"\b{name}\b", sources)}
    assert not alone


def test_the_stub_declares_exactly_what_the_extension_has() -> None:
    classes = {node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in classes["_Lib"].body if isinstance(node, ast.FunctionDef)}
    names = {node.target.id for node in classes["_Lib"].body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    real = {name for name in dir(lib) if not name.startswith("_")}
    assert names | set(functions) == real
    for name, function in functions.items():
        signature = ffi.typeof(ffi.addressof(lib, name))
        assert len(function.args.posonlyargs + function.args.args) - 1 == len(signature.args), name
        returns = ast.unparse(function.returns) if function.returns else ""
        kind = signature.result.kind
        expected = {"void": "None", "pointer": "CData"}.get(kind) or (
            "bool" if re.search("bool", signature.result.cname, re.I) else "int"
        )
        assert returns == expected, name


def test_the_stub_is_made_of_the_headers() -> None:
    assert STUB.read_text() == stub.stub(), "python -m tools.stub --write"
