"""Parts of shell scripts that run in guests and containers."""

from __future__ import annotations

WAIT = "while :; do sleep 1000 >&- 2>&- & wait; done"
"""Wait for signals, which a `trap` before it handles at once, without holding the output open.

A loop of `sleep 0.1` makes ten processes a second: more than a quarter of a lab's CPU, where a guest that waits takes
0.4 %.
"""
