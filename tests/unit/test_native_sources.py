"""Files, modules and folders need each other one way only; extension, headers and stub say the same, and the pages and
pictures of docs what is there."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import grimp
import pytest

from tools import documents, picture, stub, tree
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


def circle(needs: Mapping[str, Iterable[str]]) -> str:
    """One of those that need each other, in words; empty: there is none."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def test_no_c_files_need_each_other(symbols: Symbols) -> None:
    needs = {path: {other for name in names for other in symbols.defined[name]} for path, names in symbols.used.items()}
    assert sum(map(len, needs.values())) > 100
    assert not circle(needs)


def test_no_c_folders_need_each_other(symbols: Symbols) -> None:
    """Neither by what they call nor by what they include: so they have an order, in which nothing runs back up."""
    folder_of = {Path(path).stem: str(Path(path).parent) for path in [*build.SOURCES, *build.SERVER_ONLY]}
    needs: dict[str, set[str]] = defaultdict(set)
    for path, names in symbols.used.items():
        others = {folder_of[Path(other).stem] for name in names for other in symbols.defined[name]}
        needs[folder_of[Path(path).stem]] |= others
    for path in [*build.SOURCES, *build.SERVER_ONLY]:
        for name in re.findall(r'^#include "(.*)"', Path(path).read_text(), re.MULTILINE):
            found = [Path(folder, name).parent for folder in build.INCLUDES if Path(folder, name).exists()]
            needs[str(Path(path).parent)] |= {str(folder) for folder in found}
    assert len(needs) > 15
    assert not circle({folder: others - {folder} for folder, others in needs.items()})


def test_no_modules_need_each_other() -> None:
    """Nor do they by imports inside of functions; import-linter knows only circles of what lies side by side."""
    graph = grimp.build_graph("vmm", "pyvmm_kata", exclude_type_checking_imports=True, cache_dir=None)
    assert graph.count_imports() > 500
    assert not circle({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})


def test_only_faststart_names_private_modules_of_python() -> None:
    graph = grimp.build_graph("vmm", include_external_packages=True, cache_dir=None)
    private = {module for module in graph.modules if re.match("_[a-z]", module)}
    assert "_thread" in private
    found = {f"{where}: {module}" for module in private for where in graph.find_modules_that_directly_import(module)}
    assert {each for each in found if not each.startswith("vmm.faststart.")} == set()


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


# -- docs --------------------------------------------------------------------------------------------------------------


def test_the_rooms_are_those_of_the_page() -> None:
    assert tree.shown(tree.PAGE.read_text()) == tree.rooms(), "python -m tools.tree --write"


def test_the_picture_is_of_this_house() -> None:
    assert picture.PAGE.read_text() == picture.picture(), "python -m tools.picture --write"


def test_the_page_has_the_floors_of_import_linter() -> None:
    floors = "  >  ".join(" | ".join(floor) for floor in picture.floors("vmm"))
    assert floors.split() == re.search(r"^    (cli .*?)\n\n", tree.PAGE.read_text(), re.M | re.S)[1].split()  # type: ignore[index]


def test_every_folder_of_the_data_plane_is_in_the_picture() -> None:
    folders = {path.name for path in (ROOT / "vmm" / "native").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*picture.NATIVE}


# -- docs/reference/spec-map.md names what exists ----------------------------------------------------------------------


MAP = documents.SPEC_MAP.read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in MAP.splitlines() if line.startswith("| ")]


def test_every_code_reference_exists() -> None:
    references = [
        (path, name)
        for row in ROWS
        for path, name in re.findall(r"`((?:virtio|native)/[\w/]+\.\w+)`(?: `(\w+)`)?", row[-2])
    ]
    assert len(references) > 40
    for path, name in references:
        text = (ROOT / "vmm" / path).read_text()
        assert not name or re.search(rf"\b{name}\b", text), f"{path} has no {name}"


def test_every_test_reference_exists() -> None:
    references = [pair for row in ROWS for pair in re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1])]
    assert len(references) > 60
    for path, name in references:
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path} has no {name}"


def test_every_c_test_reference_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "native" / "src").glob("test_*.c"))
    references = [name for row in ROWS for name in re.findall(r"`T\((\w+)\)`", row[-1])]
    assert len(references) > 10
    for name in references:
        assert f"T({name})" in sources, name


def test_every_row_names_code_and_a_test() -> None:
    for row in ROWS:
        if row[0] not in ("Section", "Bit", "Rule", "---"):
            assert "`" in row[-2], row
            assert "::" in row[-1] or "T(" in row[-1] or row[-1].startswith("see "), row
