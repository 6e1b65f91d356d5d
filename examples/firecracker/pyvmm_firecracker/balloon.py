"""The balloon while the guest runs: its size, its statistics, and hints at free memory."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.records import MIB
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm import AnyMachine

    Body = dict[str, Any]

NONE = "No balloon device found."
PAGE = 4096
_NAMES = {
    "oom_kills": "oom_kill", "alloc_stalls": "alloc_stall", "async_scans": "async_scan", "direct_scans": "direct_scan",
    "async_reclaims": "async_reclaim", "direct_reclaims": "direct_reclaim",
}  # fmt: skip
"""Statistics that have other names in ``vmm`` and in the interface."""


class Balloon:
    """The requests of a balloon.

    :param machine: returns the machine
    :param section: of the configuration, which stays the caller's
    """

    def __init__(self, machine: Callable[[], AnyMachine], section: Body) -> None:
        self._machine = machine
        self._section = section
        self._changed = threading.Event()
        self._is_closed = False
        self._poller: threading.Thread | None = None

    def resize(self, amount_mib: int) -> None:
        """``PATCH /balloon``."""
        self._machine().resize_balloon(amount_mib * MIB)
        self._section["amount_mib"] = amount_mib

    # -- statistics ----------------------------------------------------------------------------------------------------

    @property
    def _interval(self) -> int:
        return int(self._section.get("stats_polling_interval_s", 0))

    def poll(self) -> None:
        """Begin to request statistics of the guest, if they are enabled."""
        if self._interval and self._poller is None:
            self._poller = threading.Thread(target=self._poll, name="fc_balloon", daemon=True)
            self._poller.start()

    def _poll(self) -> None:
        while not self._is_closed:
            self._changed.clear()
            with contextlib.suppress(VmmError):  # paused, or it has ended
                self._machine().request_balloon_stats()
            self._changed.wait(self._interval)

    def set_interval(self, stats_polling_interval_s: int) -> None:
        """``PATCH /balloon/statistics``."""
        if bool(stats_polling_interval_s) != bool(self._interval):
            raise Fault("Statistics cannot be enabled/disabled after activation.")
        self._section["stats_polling_interval_s"] = stats_polling_interval_s
        self._changed.set()

    def statistics(self) -> Body:
        """``GET /balloon/statistics``."""
        if not self._interval:
            raise Fault("Statistics for the balloon device are not enabled.")
        found = self._figures()
        guest = {_NAMES.get(name, name): value for name, value in found["guest"].items()}
        sizes = {}
        for name in ("target", "actual"):
            sizes[f"{name}_pages"], sizes[f"{name}_mib"] = found[name] // PAGE, found[name] // MIB
        return {**sizes, **guest}

    def _figures(self) -> Body:
        rows: list[Body] = self._machine().figures()["devices"]
        return next(each for each in rows if each["name"] == "balloon")

    # -- hints ---------------------------------------------------------------------------------------------------------

    def start_hinting(self, body: Body) -> None:
        """``PATCH /balloon/hinting/start``."""
        self._check_hinting()
        self._machine().start_hinting(body.get("acknowledge_on_stop", True))

    def stop_hinting(self) -> None:
        """``PATCH /balloon/hinting/stop``."""
        self._check_hinting()
        self._machine().stop_hinting()

    def hinting(self) -> Body:
        """``GET /balloon/hinting/status``."""
        self._check_hinting()
        found = self._figures()
        return {"host_cmd": found["host_hint"], "guest_cmd": found["guest_hint"]}

    def _check_hinting(self) -> None:
        if not self._section.get("free_page_hinting"):
            raise Fault("Free page hinting is not enabled for the balloon device.")

    def close(self) -> None:
        """Request nothing any more."""
        self._is_closed = True
        self._changed.set()
