"""``pyvmm-oci events [--stats] ID``: prints statistics of a container as lines of JSON, with runc's field names, and an
event for each process that was killed for lack of memory."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import FLAG, VALUE, one_id, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"stats": FLAG, "interval": VALUE}, {}, "events")
    container_id = one_id(rest, "events")
    folder = context.folder(container_id)
    if state.read(folder)["status"] == "stopped":
        raise ConfigError("container not running", code="container-state")
    interval = _seconds(options["interval"] or "5s")
    oom = 0
    while True:
        answer = control.call(folder, "stats")
        while oom < answer["oom"]:
            oom += 1
            _print({"type": "oom", "id": container_id})
        _print({"type": "stats", "id": container_id, "data": answer["data"]})
        if options["stats"]:
            return 0
        time.sleep(interval)
        if state.read(folder)["status"] == "stopped":
            return 0


def _print(event: Json) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _seconds(text: str) -> float:
    """Seconds of a duration in Go's form: ``5s``, ``100ms``, ``1m``."""
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * _UNITS[unit]
    raise ConfigError(f"events: --interval {text!r} is no time", code="oci-usage", hint="for example 5s, 500ms")
