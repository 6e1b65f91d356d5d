"""The extension, its headers and its type stub say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tools import stub
from vmm import native
from vmm.native import ffi, lib

STUB = Path(native.__file__).with_name("_native.pyi")


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
