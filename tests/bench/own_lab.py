"""Parts of the benchmark that have a lab of their own and no stage: a module measures there, and writes the figures."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import Lab, LabError
from tools import guest
from tools.where import ROOT


def measure(module: str, folder: Path, *words: str, **lab: Any) -> Any:
    """Run a module in a lab; returns the figures that it writes.

    :param module: whose ``__main__`` calls :func:`write`
    :param words: for what measures there
    :param lab: of :class:`Lab`
    :raises LabError: it fails
    """
    name = module.rpartition(".")[2].replace("_", "-")
    result = folder / f"{name}.raw.json"
    result.unlink(missing_ok=True)
    for recipe in (guest.kernel, guest.rootfs, guest.kata_image, guest.programs, guest.sentry):
        recipe()  # here, where there is a network: the lab has none, and finds the files in the same cache
    with Lab(**lab) as made:
        status = made.run([sys.executable, "-m", module, str(result), *words], cwd=ROOT)
    if status:
        raise LabError(f"measuring {name} failed with status {status}")
    return json.loads(result.read_text())


def write(measure_here: Callable[..., Any], place: str) -> None:
    """In the lab: write the figures of a function into the file that the command line names first.

    :param measure_here: gets a new folder, and the other words of the command line
    :param place: where the folder is
    """
    result, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        Path(result).write_text(json.dumps(measure_here(Path(folder), *words), indent=1))
