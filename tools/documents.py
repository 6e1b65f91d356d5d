"""Where the documents are that a tool writes, or that a test compares with the code."""

from __future__ import annotations

from pathlib import Path

from tools.where import ROOT

DOCS = ROOT / "docs"
GUIDE, INTERNALS, DECISIONS, REFERENCE, PICTURES = (
    DOCS / name for name in ("guide", "internals", "decisions", "reference", "pictures")
)

BENCHMARKS = DOCS / "benchmarks.md"
SECURITY = DOCS / "security.md"
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"

CONTAINERS_GUIDE = GUIDE / "containers.md"
"""Guest tests run its commands."""
SHARES_GUIDE = GUIDE / "shares.md"

COMMAND_LINE = REFERENCE / "command-line.md"
CONFORMANCE = REFERENCE / "conformance.md"
CONTROL = REFERENCE / "control.md"
DIFFERENCES = REFERENCE / "differences.md"
GLOSSARY = REFERENCE / "glossary.md"
MACHINE_CALLS = REFERENCE / "machine-calls.md"
ROOMS = REFERENCE / "rooms.md"
SENTRY_CONFORMANCE = REFERENCE / "sentry-conformance.md"
SENTENCES = REFERENCE / "sentences.md"
SPEC_MAP = REFERENCE / "spec-map.md"
SYSTEM_CALLS = REFERENCE / "system-calls.md"

HOUSE = PICTURES / "house.svg"


def pages() -> list[Path]:
    """Every page that people read: those of docs, and those beside the code."""
    beside = (README, CONTRIBUTING, *ROOT.glob("guest-kernel/*.md"), *ROOT.glob("examples/**/*.md"))
    return sorted({*DOCS.rglob("*.md"), *beside})
