"""How the runtime imports what a container's start needs."""

from __future__ import annotations

import subprocess
import sys

from tools.where import ROOT

TWO_THREADS = """
import _frozen_importlib, sys, threading, time

from pyvmm_kata import entry

met = threading.Event()
later = threading.Thread(target=lambda: (met.wait(), entry.load(["vmm.boot.image"])))


class Meeting:
    # The first thread looks for the package until the second waits for that, or for its turn
    def find_spec(self, name, path, target=None):
        if name == "vmm.boot" and not met.is_set():
            met.set()
            end = time.monotonic() + 1
            while not _frozen_importlib._blocking_on.get(later.ident) and time.monotonic() < end:
                time.sleep(0.001)


failures = []
threading.excepthook = lambda failure: failures.append(failure.exc_value)
sys.meta_path.insert(0, Meeting())
later.start()
entry.load(["vmm.boot"])
later.join()
print(failures)
"""


def test_threads_load_a_package_and_its_parts_at_once() -> None:
    """As those of a pool, which starts several sandboxes of a process that has started none."""
    words = [sys.executable, "-c", TWO_THREADS]
    done = subprocess.run(words, cwd=ROOT / "examples" / "kata", capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
