"""A tree search: the sandbox is forked for each step that could come next, and the best copies go on.

usage: tree_search.py IMAGE TARGET. The steps change a number in a file, which stands for the files and processes that
an agent would change, until it is the target.
"""

import sys
from typing import NamedTuple

from pyvmm_sandbox import Sandbox

STEPS = ("n * 2", "n + 7", "n - 1")
KEPT = 3
DEPTH = 12


class Node(NamedTuple):
    """A machine, how it came about, and how far it is from the target."""

    box: Sandbox
    path: tuple[str, ...]
    distance: int


def step(box: Sandbox, expression: str) -> int:
    """Take a step in the sandbox; the number afterwards."""
    return int(box.run(f"n=$(cat /n); n=$(({expression})); echo $n >/n; echo $n", check=True).stdout)


def expand(node: Node, target: int) -> list[Node]:
    """A copy for each step, which has taken it.  The node is used up."""
    with node.box:
        copies = node.box.fork(len(STEPS))
    pairs = zip(copies, STEPS, strict=True)
    return [Node(copy, (*node.path, words), abs(step(copy, words) - target)) for copy, words in pairs]


def main(image: str, target: int) -> None:
    first = Sandbox(image, timeout=None)
    first.files.write("/n", "1")
    kept = [Node(first, (), abs(1 - target))]
    for _ in range(DEPTH):
        if not kept[0].distance:
            break
        found = sorted((child for node in kept for child in expand(node, target)), key=lambda node: node.distance)
        for node in found[KEPT:]:
            node.box.kill()
        kept = found[:KEPT]
    print(f"{kept[0].box.files.read_text('/n').strip()} by {', '.join(kept[0].path)}")
    for node in kept:
        node.box.kill()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
