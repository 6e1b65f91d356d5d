"""A machine that ends before its container's status is known."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

from pyvmm_kata.oci.container_service import ContainerService


def test_the_reason_is_written_before_the_output_ends() -> None:
    """The first process reports the end of the machine, and the machine does: the second of them ends the output."""
    service: Any = ContainerService.__new__(ContainerService)
    reader, writer = os.pipe()
    begun, go_on = threading.Event(), threading.Event()

    def save(**_: str) -> None:
        begun.set()
        go_on.wait()

    def lose_and_end() -> None:
        service.lose("the second reason")
        service._voice = -1

    service._losing, service._is_lost, service._voice = threading.Lock(), False, writer
    service.plan, service.save = SimpleNamespace(container_id="c1"), save
    threads = [threading.Thread(target=service.lose, args=("the first reason",)), threading.Thread(target=lose_and_end)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    threads[1].join(0.2)  # it waits for the first, or has ended the output by now
    go_on.set()
    for thread in threads:
        thread.join()
    os.close(writer)
    with open(reader, "rb") as words:
        assert words.read() == b"pyvmm-oci: container c1 was lost: the first reason\n"
