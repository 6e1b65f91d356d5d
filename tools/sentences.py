"""`python -m tools.sentences --seed N [--count 100]`: sentences at random, to be graded by a reader.

They are of the documents, of docstrings, of messages and hints of errors, and of help texts.  The same seed and the
same sources give the same sample.  `--long` lists what CONTRIBUTING.md forbids and a program can count: sentences of
more than 25 words and paragraphs of more than 5 sentences in documents.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools import documents
from tools.where import ROOT

CODE = ("vmm", "examples")
ERRORS = re.compile(r"(Error|error|refusal|say|report|fail)$")
HELP = {"Option", "Syntax", "Word", "add_argument", "add_parser", "Key"}
WORDS_MOST, SENTENCES_MOST, WORDS_LEAST = 25, 5, 6
GENERATED = {
    documents.COMMAND_LINE,
    documents.CONFORMANCE,
    documents.SYSTEM_CALLS,
    documents.ROOMS,
    documents.SENTENCES,
}
"""Pages that repeat what is elsewhere, or that are made of names."""


PARTS = re.compile(r"\n\s*\n|\n\s*(?=:\w+(?: [\w, *.]+)?: )|\n\s*(?=[-*] )|\n(?=``[^\n]+\n {4})")
"""Between the parts of a docstring: paragraphs, fields, items, terms of a list of definitions."""


TABLE = re.compile(r"\S {3,}\S| \.\. ")
"""In a part of a docstring that is a table of addresses or fields."""


class Sentence(NamedTuple):
    """A sentence, and where it is.

    :ivar kind: document, docstring, message or help
    """

    kind: str
    place: str
    text: str

    @property
    def words(self) -> int:
        """How many words it has; code in it counts as one."""
        return len(re.findall(r"\S*\w\S*", re.sub(r"``?[^`]+``?", "code", self.text)))


def split(text: str) -> list[str]:
    """The sentences of a paragraph."""
    text = " ".join(text.split())
    parts = re.split(r"(?<=[.?!])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\.\.\.)\s+", text)
    return [part for part in parts if part]


def paragraphs(page: Path) -> Iterator[tuple[int, str, bool]]:
    """The paragraphs of a page (line, text, whether it is a cell of a table), without code and headings."""
    text = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), page.read_text(), flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    lines: list[str] = []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        alone = re.match(r"\s*(?:[-*] |\d+\. )", line)
        if lines and (alone or not line.strip() or line.strip()[0] in "|#!"):
            yield start, " ".join(lines), False
            lines = []
        if line.strip().startswith("|"):
            if "---" not in line:
                for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")):
                    yield number, cell.strip(), True
        elif (line.strip() and line[0] not in "#!" and not line.startswith("    ")) or (lines and line.strip()):
            if not lines:
                start = number
            lines.append(re.sub(r"^\s*(?:[-*] |\d+\. )", "", line).strip())


def plain(text: str) -> str:
    """Markdown without links and emphasis."""
    return re.sub(r"\*\*?([^*]+)\*\*?", r"\1", re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text))


def of_documents() -> Iterator[Sentence]:
    """Of the pages."""
    for page in documents.pages():
        if page not in GENERATED:
            for line, text, _ in paragraphs(page):
                for sentence in split(plain(text)):
                    yield Sentence("document", f"{page.relative_to(ROOT)}:{line}", sentence)


def text_of(node: ast.expr) -> str:
    """A literal, with an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return ""


def of_call(node: ast.Call) -> tuple[str, list[str]]:
    """The kind of a call's texts, and the texts."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    hints = [text_of(keyword.value) for keyword in node.keywords if keyword.arg in ("hint", "help", "description")]
    if ERRORS.search(name):
        return "message", [*map(text_of, node.args[:1]), *hints]
    if name in HELP:
        return "help", [*map(text_of, node.args), *hints]
    return "message", hints


def of_code() -> Iterator[Sentence]:
    """Of the sources in Python."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name.startswith("_") and path.name != "__init__.py":
                continue
            name = path.relative_to(ROOT)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    line = getattr(node, "lineno", 1)
                    for part in PARTS.split(ast.get_docstring(node) or ""):
                        text = re.sub(r"^:(?:param|ivar) ([\w, *.]+): ", r"\1: ", part.strip())  # as readers see it
                        text = re.sub(r"^:(\w+)(?: [\w, *.]+)?: ", r"\1: ", text)
                        for sentence in split(text) if "::" not in part and not TABLE.search(part) else []:
                            yield Sentence("docstring", f"{name}:{line}", sentence)
                elif isinstance(node, ast.Call):
                    kind, texts = of_call(node)
                    for sentence in (each for text in texts for each in split(text)):
                        yield Sentence(kind, f"{name}:{node.lineno}", sentence)


def everything() -> list[Sentence]:
    """All sentences, in the order of their places."""
    found = [*of_documents(), *of_code()]
    return [each for each in dict.fromkeys(found) if each.words >= WORDS_LEAST]


def sample(seed: int, count: int) -> list[Sentence]:
    """Sentences at random."""
    return random.Random(seed).sample(everything(), count)


def too_long() -> Iterator[str]:
    """What a program can find in documents that is against the rules."""
    for page in documents.pages():
        if page in GENERATED:
            continue
        for line, text, cell in paragraphs(page):
            sentences = split(plain(text))
            place = f"{page.relative_to(ROOT)}:{line}"
            if len(sentences) > SENTENCES_MOST and not cell:
                yield f"{place}: a paragraph of {len(sentences)} sentences"
            for each in sentences:
                words = Sentence("", "", each).words
                if words > WORDS_MOST and not cell:
                    yield f"{place}: {words} words: {each}"


def main() -> int:
    """Print the sample as a table to be graded, or what is too long."""
    parser = argparse.ArgumentParser(description="draw sentences at random")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same sentences")
    parser.add_argument("--count", type=int, default=100, help="how many sentences")
    parser.add_argument("--long", action="store_true", help="list sentences and paragraphs that are too long")
    options = parser.parse_args()
    if options.long:
        found = list(too_long())
        print(*found, sep="\n")
        return 1 if found else 0
    for number, each in enumerate(sample(options.seed, options.count), 1):
        text = each.text.replace("|", "\\|")
        print(f"| {number} | {each.kind} | `{each.place}` | {text} | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
