"""The wait of a monitor that is idle."""

from __future__ import annotations

import resource
import signal
import threading

from pyvmm_kata.oci.idle_wait import IdleWait


def test_it_ends_when_it_is_set_and_not_before() -> None:
    """Neither a signal that is handled ends it, nor a request to give back memory."""
    idle, heard, tidied = IdleWait(), threading.Event(), threading.Event()

    def end() -> None:
        idle.tidy()
        tidied.set()
        heard.wait(60)
        idle.tidy()
        idle.set()

    old = signal.signal(signal.SIGALRM, lambda *_: heard.set())
    thread = threading.Thread(target=end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        thread.start()
        idle.wait_idle()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        thread.join()
    assert idle.is_set() and heard.is_set() and tidied.is_set()


def test_a_process_without_a_descriptor_waits_as_well() -> None:
    idle = IdleWait()
    thread = threading.Timer(0.1, idle.set)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        thread.start()
        idle.wait_idle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        thread.join()
    assert idle.is_set()
