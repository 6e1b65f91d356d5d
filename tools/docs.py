"""`make docs`: the API reference from docstrings, warnings as errors; into build/docs."""

from __future__ import annotations

import subprocess
import sys

from tools.where import ROOT


def main() -> int:
    """Run Sphinx; returns its exit status."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs/reference", "build/docs"]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not status:
        print("build/docs/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
