"""`python -m tools.sizes`: files, functions and classes that are large, for docs/reference/sizes.md.

Each stands on that page with the reason why it is one subject. A test compares the page with this.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from tools.where import ROOT

PAGE = ROOT / "docs" / "reference" / "sizes.md"
LINES, PARAMETERS, METHODS = 700, 6, 30
_SOURCES = (".py", ".c", ".h")


def _sources() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in done.stdout.splitlines() if path.endswith(_SOURCES) and (ROOT / path).is_file()]


def files() -> dict[str, int]:
    """Files of more than :data:`LINES` lines, and how many they have."""
    counts = {path: (ROOT / path).read_text().count("\n") for path in _sources()}
    return {path: count for path, count in counts.items() if count > LINES}


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """The functions and methods of a file by name, and whether they have a first parameter that callers do not give."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node, False
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    static = any(
                        isinstance(name, ast.Name) and name.id == "staticmethod" for name in each.decorator_list
                    )
                    yield f"{node.name}.{each.name}", each, not static


def functions() -> dict[str, int]:
    """Functions of the product with more than :data:`PARAMETERS` parameters, and how many they have."""
    found = {}
    for path in _sources():
        if path.endswith(".py") and not path.startswith("tests/"):
            for name, node, bound in _functions(ast.parse((ROOT / path).read_text())):
                given = node.args
                count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - bound
                if count > PARAMETERS:
                    found[f"{path} {name}"] = count
    return found


def classes() -> dict[str, int]:
    """Classes of the product with more than :data:`METHODS` methods, and how many they have."""
    found = {}
    for path in _sources():
        if path.endswith(".py") and not path.startswith("tests/"):
            for node in ast.parse((ROOT / path).read_text()).body:
                if isinstance(node, ast.ClassDef):
                    count = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
                    if count > METHODS:
                        found[f"{path} {node.name}"] = count
    return found


def listed() -> set[str]:
    """What the page lists: file, or file and name."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {row.split("|")[1].replace("`", "").strip() for row in rows}


def main() -> int:
    """Print what is large; the exit status says whether the page lists exactly that."""
    found = {**files(), **functions(), **classes()}
    for name, count in sorted(found.items(), key=lambda each: -each[1]):
        print(f"{count:>6}  {name}{'' if name in listed() else '  (not on the page)'}")
    return int(set(found) != listed())


if __name__ == "__main__":
    sys.exit(main())
