"""What is large has a reason in docs/reference/sizes.md."""

from __future__ import annotations

from tools import sizes


def test_what_is_large_is_listed_with_its_reason() -> None:
    found = {**sizes.files(), **sizes.functions(), **sizes.classes()}
    assert set(found) - sizes.listed() == set(), "split it by subject, or give the reason on docs/reference/sizes.md"
    assert sizes.listed() - set(found) == set(), "it is no longer large: remove it from docs/reference/sizes.md"
