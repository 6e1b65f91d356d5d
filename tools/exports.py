"""`python -m tools.exports [--write]`: what type checkers see of the records of built-in devices in vmm/__init__.py.

Python itself takes the names from `vmm/virtio/registry.py`; type checkers follow imports alone.  A test compares both.
"""

from __future__ import annotations

import sys

from tools.where import ROOT
from vmm.virtio.registry import BUILT_IN

PAGE = ROOT / "vmm" / "__init__.py"
BEGIN = "# The records of the built-in devices, for type checkers: python -m tools.exports --write\nif TYPE_CHECKING:\n"
END = "# End of the built-in devices\n"


def imports() -> str:
    """The lines of all devices."""
    names = sorted((device.module, name) for device in BUILT_IN for name in device.names)
    return "".join(f"    from {module} import {name} as {name}\n" for module, name in names)


def shown(text: str) -> str:
    """The lines that are in the file."""
    return text.partition(BEGIN)[2].partition(END)[0]


def main(arguments: list[str]) -> int:
    """Print the lines, or write them to vmm/__init__.py."""
    if arguments != ["--write"]:
        print(imports(), end="")
        return 0
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{imports()}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
