"""`python -m tools.sleeps`: no sleep in the product, its examples or its tests waits for something to settle.

A sleep is right as the step of a loop that looks for what it waits for, and where a comment says why there is nothing
to wait for: on its line, or right above its statement.  Any other is a guess of how long something takes, and wrong on
a busy host.  Looked at are Python, the shell that Python has in strings (sleeps of up to `SHORT` seconds: longer ones
are programs that are to run until they are killed), shell scripts and C.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .where import ROOT

FOLDERS = ("vmm", "examples", "tests", "guest-kernel")
LEFT_OUT = ("tests/bench/", "tests/conformance/", "tests/unit/test_sleeps.py")
"""Benchmarks let a machine come to rest, conformance suites have their authors' scripts, and the last has examples."""
SHORT = 9.0
IN_SHELL = re.compile(r"(?:^|[\s;&|({])sleep (\d*\.?\d+)")
IN_C = re.compile(r"\b(?:usleep|nanosleep|clock_nanosleep|sleep)\(")
LOOP = re.compile(r"\b(?:while|until)\b|\bfor\b.*\bbreak\b")


def find_in_python(source: str) -> Iterator[int]:
    """The lines of sleeps without a reason."""
    lines = source.splitlines()
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def statement(node: ast.AST) -> ast.stmt:
        while not isinstance(node, ast.stmt):
            node = parents[node]
        return node

    def is_step(node: ast.AST) -> bool:
        """Is it in a loop that something else than the number of its rounds ends?"""
        while not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Module)):
            node = parents[node]
            if isinstance(node, ast.While):
                return True
            if isinstance(node, ast.For):
                return any(isinstance(each, (ast.Break, ast.Return)) for each in ast.walk(node))
        return False

    def has_reason(node: ast.AST, at: int) -> bool:
        """Is there a comment on the line *at* or above the statement?"""
        first = statement(node).lineno
        above = [lines[number - 2].strip() for number in (first, at) if number > 1]
        return _has_comment(lines[at - 1]) or any(line.startswith("#") for line in above)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_nothing = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name == "sleep" and not is_nothing and not is_step(node) and not has_reason(node, node.lineno):
                yield node.lineno
        elif not isinstance(parents.get(node), ast.JoinedStr) and "sleep" in (text := _text(node)):
            for offset, line in enumerate(text.split("\n")):
                # What was joined from several literals is one constant: its lines are not those of the file
                assert isinstance(node, ast.expr)
                at = min(node.lineno + offset, node.end_lineno or node.lineno)
                if _in_shell(line) and not has_reason(node, at):
                    yield at


def _text(node: ast.AST) -> str:
    """What a string has; empty for other nodes."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) or "{}" for each in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _has_comment(line: str) -> bool:
    return bool(re.search(r"\s#\s", line))


def _in_shell(line: str) -> bool:
    found = IN_SHELL.search(line)
    return found is not None and float(found[1]) <= SHORT and not LOOP.search(line) and not _has_comment(line)


def find_in_shell(text: str) -> Iterator[int]:
    """The lines of sleeps without a reason."""
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip().startswith("#") and _in_shell(line) and not before.strip().startswith("#"):
            yield number
        before = line


def find_in_c(text: str) -> Iterator[int]:
    """The lines of sleeps without a reason."""
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        has_reason = "/*" in line or line.lstrip().startswith("*") or before.rstrip().endswith("*/")
        if IN_C.search(line) and "->sleep(" not in line and not has_reason and not LOOP.search(before):
            yield number
        before = line


FINDERS = {".py": find_in_python, ".sh": find_in_shell, ".c": find_in_c, ".h": find_in_c}


def main() -> int:
    """Look at all files; 1 when one has a sleep without a reason."""
    os.chdir(ROOT)
    status = 0
    for path in sorted(path for folder in FOLDERS for path in Path(folder).rglob("*")):
        finder = FINDERS.get(path.suffix)
        if finder is None or str(path).startswith(LEFT_OUT) or "build" in path.parts:
            continue
        for number in finder(path.read_text()):
            print(f"{path}:{number}: wait for what happens, or say in a comment why this sleep is right")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
