"""The documents: every link leads somewhere, every file of ours that they name exists, and their blocks run.

A block of shell or Python runs as a reader would run it, in a folder of its own.  One that cannot has a comment before
it, ``<!-- not run: REASON -->``.  Of these too, options of `pyvmm` and imports from `vmm` have to exist, and Python has
to be Python.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tools import command_line, diagrams, documents, paths, sentences
from tools.where import ROOT
from vmm.cli.commands import COMMANDS
from vmm.cli.plugins import PACKAGES

PAGES = documents.pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BIN = ROOT / ".venv" / "bin"
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
REASONS = {
    "boots a guest",
    "needs a guest",
    "needs a machine",
    "needs a root directory",
    "needs a terminal",
    "needs the wheels",
    "a guest test runs it",
    "needs a cluster",
    "needs a registry",
    "needs two hosts",
    "installs on a node",
    "builds a kernel, 5 minutes",
    "takes half an hour",
    "takes an hour",
}
"""Why a block does not run; another reason has to be added here, and so to be seen."""


class Block(NamedTuple):
    """A block of code.

    :ivar reason: why it does not run; empty if it does
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages."""
    return [
        Block(name, text[: match.start()].count("\n") + 1, match["language"], match["text"], match["reason"] or "")
        for name, page in zip(NAMES, PAGES, strict=True)
        for text in (page.read_text(),)
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


SHELL = blocks("console", "sh", "shell", "bash")
PYTHON = blocks("python")


def shell_lines(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with the output that is shown."""
    command, shown = "", ""
    for line in block.text.splitlines(keepends=True):
        if line.startswith(("$ ", "# ")):
            if command:
                yield command, shown
            command, shown = line[2:].strip(), ""
        else:
            shown += line
    yield command, shown


# -- links and paths ---------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A page without blocks of code and code in lines."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*)$", text, re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"\w+:", target):
            assert re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w./%~#?&=+@:-]*)?", target), target
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_a_missing_anchor_is_found() -> None:
    assert "what-is-missing" in anchors(documents.SECURITY)
    assert "what-is-there" not in anchors(documents.SECURITY)


def test_every_page_of_docs_is_reached() -> None:
    """From the index, or from its part's index."""
    reached = {documents.DOCS / "index.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        if page.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s:#]+)", page.read_text()):
            file = (page.parent / target).resolve()
            if file not in reached and file.exists():
                reached.add(file)
                waiting.append(file)
    assert {page for page in PAGES if page.is_relative_to(documents.DOCS)} <= reached


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_exist(page: Path) -> None:
    assert paths.missing(page) == [], "python -m tools.paths --write mends those that have moved"


def test_diagrams_are_drawn_from_their_texts() -> None:
    assert [source.name for source in diagrams.sources() if not diagrams.is_current(source)] == [], (
        "python -m tools.diagrams --write"
    )
    assert len(diagrams.sources()) >= 5


def test_internals_are_short_and_open_with_a_diagram() -> None:
    for page in documents.INTERNALS.glob("*.md"):
        lines = page.read_text().splitlines()
        assert len(lines) <= 250, page.name
        if page.name != "index.md":
            assert re.fullmatch(r"!\[.+\]\(\.\./pictures/.+\.svg\)", lines[2]), page.name


def test_the_readme_is_short() -> None:
    assert len(documents.README.read_text().splitlines()) <= 130


def test_the_page_of_the_command_line_is_its_help() -> None:
    assert documents.COMMAND_LINE.read_text() == command_line.page(), "python -m tools.command_line --write"


def test_sentences_and_paragraphs_are_short() -> None:
    assert list(sentences.too_long()) == []


def test_a_long_sentence_is_found() -> None:
    text = " ".join(["word"] * 26) + "."
    assert [sentences.Sentence("", "", each).words for each in sentences.split(f"{text} Short one, e.g. this.")] == [
        26,
        4,
    ]


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_reasons_are_known() -> None:
    assert {block.reason for block in SHELL + PYTHON} - {""} <= REASONS


@pytest.mark.parametrize("block", [b for b in SHELL if not b.reason], ids=str)
def test_shell_blocks_run(block: Block, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for name in ("Makefile", "tools", "tests", "examples", "guest-kernel", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command, shown in shell_lines(block):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert shown.strip() in done.stdout, command


@pytest.mark.parametrize("block", [b for b in PYTHON if not b.reason], ids=str)
def test_python_blocks_run(block: Block, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_import_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith(("pyvmm", "vmm")):
                    raise
                continue  # a framework, which only its suite installs
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@cache
def options_of(*words: str) -> set[str]:
    """The options that a command's help names."""
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", command_line.help_of(*words)))


def test_commands_have_the_options_that_are_shown() -> None:
    looked_at = 0
    for block in SHELL:
        for command in re.findall(r"(?<![\w-])pyvmm ([a-z]+)((?: [^|;&\n]*)?)", block.text):
            name, arguments = command
            if name not in COMMANDS and name not in PACKAGES:
                assert name in ("pyvmm", "rest"), f"{block}: pyvmm {name}"
            if name == "run":  # what is behind the image is the container's
                arguments = re.split(r" (?:\./|debian|image|docker)", arguments)[0]
            flags = re.findall(r"(?<= )--?[a-zA-Z][\w-]*", arguments)
            flags = [f"-{letter}" for f in flags if re.fullmatch(r"-[a-z]{2,}", f) for letter in f[1:]] + [
                f for f in flags if not re.fullmatch(r"-[a-z]{2,}", f)
            ]
            assert set(flags) <= options_of(name), f"{block}: {command}"
            looked_at += len(flags)
    assert looked_at > 30


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)
