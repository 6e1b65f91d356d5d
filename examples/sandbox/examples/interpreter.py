"""A code interpreter: runs cells of Python from standard input in a sandbox, which keeps their state.

usage: interpreter.py IMAGE, where the image has Python and ipykernel. A blank line ends a cell.
"""

import sys
from collections.abc import Iterator

from pyvmm_sandbox import CodeTimeout, Sandbox


def cells() -> Iterator[str]:
    """From standard input."""
    lines: list[str] = []
    for line in sys.stdin:
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines)
            lines = []
    if lines:
        yield "".join(lines)


def main(image: str) -> None:
    with Sandbox(image, memory="1G", timeout=3600) as box:
        for cell in cells():
            try:
                done = box.run_code(cell, timeout=30, on_stdout=sys.stdout.write)
            except CodeTimeout as late:
                print(f"interrupted: {late}")
                continue
            if done.error:
                print(f"{done.error.name}: {done.error.value}")
            elif done.text:
                print(f"[{done.count}] {done.text}")


if __name__ == "__main__":
    main(sys.argv[1])
