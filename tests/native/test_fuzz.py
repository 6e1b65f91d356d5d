"""Every input that a fuzzer ever found interesting, once."""

from __future__ import annotations

import pytest

from tests.native.fuzz import TARGETS, corpus, replay
from tests.native.programs import compiler


@pytest.mark.skipif(compiler("fuzzer") is None, reason="libFuzzer needs clang")
@pytest.mark.parametrize("target", TARGETS)
def test_kept_corpus(target: str) -> None:
    assert len(list(corpus(target).iterdir())) > 20
    done = replay(target, corpus(target))
    assert done.returncode == 0, done.stderr
