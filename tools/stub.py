"""`python -m tools.stub [--write]`: vmm/native/_native.pyi, what type checkers see of the extension, from its headers
(``vmm_native.h``, and what those of devices have for Python).

C data (pointers, structs) is ``Any``, which cffi checks when it is used; ``const char *`` takes bytes.  A test compares
the file with this, and with the extension.
"""

from __future__ import annotations

import re
import runpy
import sys

from tools.where import ROOT

STUB = ROOT / "vmm" / "native" / "_native.pyi"
HEAD = '''"""The extension that cffi makes of ``vmm_native.h`` and the headers of devices, as type checkers see it.

What the functions do is said there.  Made by ``python -m tools.stub --write``: do not edit.

C data (pointers, structs) is ``Any``: cffi checks it when it is used.
"""

from typing import Any, Final, TypeAlias

from typing_extensions import Buffer

CData: TypeAlias = Any

class _Ffi:
    NULL: Final[CData]
    errno: int

    def new(self, cdecl: str, init: object = ..., /) -> CData: ...
    def cast(self, cdecl: str, value: object, /) -> CData: ...
    def from_buffer(self, buffer: Buffer, require_writable: bool = ..., /) -> CData: ...
    def buffer(self, cdata: CData, size: int = ..., /) -> Buffer: ...
    def release(self, cdata: CData, /) -> None: ...
    def string(self, cdata: CData, maxlen: int = ..., /) -> bytes: ...
    def addressof(self, cdata: CData, /, *fields: str | int) -> CData: ...
    def offsetof(self, cdecl: str, /, *fields: str | int) -> int: ...
    def sizeof(self, cdecl: str | CData, /) -> int: ...
    def typeof(self, cdecl: str | CData, /) -> Any: ...
    def memmove(self, dest: object, src: object, n: int, /) -> None: ...
    def gc(self, cdata: CData, destructor: object, size: int = ..., /) -> CData: ...

class _Lib:
'''
TAIL = """
ffi: Final[_Ffi]
lib: Final[_Lib]
"""
WIDTH = 120
"""The longest line of the stub."""
KEYWORDS = {"from": "from_", "in": "in_", "is": "is_", "global": "global_"}
"""Names of parameters in C that are keywords in Python. Parameters are positional, so others will do."""
_ENUM = re.compile(r"^enum\s*(?:\w+\s*)?\{(?P<values>[^}]*)\}\s*;", re.M)
_FUNCTION = re.compile(r"^(?P<result>(?:\w[\w ]*?[ *]+))(?P<name>\w+)\((?P<arguments>[^()]*)\);", re.M)


def python_type(declared: str) -> str:
    """The Python type for a C type, which has no name behind it."""
    if "*" in declared or "[" in declared:
        return "bytes" if re.match(r"const char \*$", declared.strip()) else "CData"
    if declared.strip() in ("void", "bool"):
        return {"void": "None", "bool": "bool"}[declared.strip()]
    return "int"


def function(match: re.Match[str]) -> str:
    """The declaration of a function in the stub."""
    arguments = []
    for argument in match["arguments"].split(","):
        declared, name = re.match(r"\s*(.*?)(\w+)(?:\[\w*\])?\s*$", argument, re.S).groups()  # type: ignore[union-attr]
        if declared.strip():
            kind = "CData" if argument.strip().endswith("]") else python_type(" ".join(declared.split()))
            arguments.append(f"{KEYWORDS.get(name, name)}: {kind}")
    result = python_type(" ".join(match["result"].split()).replace("const char *", "char *"))
    listed = ", ".join(["self", *arguments, "/"] if arguments else ["self"])
    line = f"    def {match['name']}({listed}) -> {result}: ..."
    if len(line) > WIDTH:  # as `ruff format` has it
        line = f"    def {match['name']}(\n        {listed}\n    ) -> {result}: ..."
    return line


def stub() -> str:
    """The text of the stub."""
    lines = []
    # Not imported: that would need the extension, which may not be built yet
    build = runpy.run_path(str(ROOT / "vmm" / "native" / "build.py"), run_name="build")
    for text in build["SURFACES"].values():
        found = [(match.start(), match) for pattern in (_ENUM, _FUNCTION) for match in pattern.finditer(text)]
        for _, match in sorted(found, key=lambda each: each[0]):
            if "values" in match.groupdict():
                names = [value.partition("=")[0].strip() for value in match["values"].split(",")]
                lines += [f"    {name}: Final[int]" for name in names if name]
            else:
                lines.append(function(match))
    return HEAD + "\n".join(lines) + "\n" + TAIL


def main(arguments: list[str]) -> int:
    """Print it, or write it."""
    if arguments == ["--write"]:
        STUB.write_text(stub())
    else:
        print(stub(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
