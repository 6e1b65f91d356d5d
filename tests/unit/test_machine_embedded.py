"""A machine in somebody else's program: what the interpreter's end, an exception and logging make of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

EXITS = {
    "main ends": ("machine.start()", 0),
    "sys.exit": ("machine.start(); import sys; sys.exit(3)", 3),
    "on another thread": (
        "import contextlib, threading\n"
        "        def main():\n"
        "            with contextlib.suppress(ConfigError): machine.run()\n"
        "        threading.Thread(target=main, daemon=True).start()",
        0,
    ),
    "not started": ("", 0),
    "paused": ("machine.start(); machine.pause()", 0),
    "watched": (
        "import threading; stream = machine.events(); machine.start()\n"
        "        threading.Thread(target=lambda: list(stream), daemon=True).start()",
        0,
    ),
    "debugged": (
        "from vmm.debug import GdbServer, GdbTarget\n"
        "        server = GdbServer(machine, GdbTarget(port=0, wait=True)); machine.start()",
        0,
    ),
    "ended": ("machine.run()", 0),
    "a full console": (
        "machine.start(); import select, time\n        while select.select([], [writer], [], 0)[1]: time.sleep(0.01)",
        0,
    ),
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_may_exit_with_a_machine_around(tmp_path: Path, how: str) -> None:
    statement, status = EXITS[how]
    code = {"ended": tiny.POWEROFF, "a full console": tiny.forever(tiny.say("x"))}.get(how, tiny.SPIN)
    program = f"""if True:
        from tests import tiny
        from vmm import ConfigError, ConsoleConfig, Machine
        import os
        reader, writer = os.pipe()
        machine = Machine(tiny.config({tiny.make(tmp_path, code)!r}, cpus=2, console=ConsoleConfig("fd", writer)))
        {statement}
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_an_uncaught_exception_ends_the_interpreter_with_its_traceback(tmp_path: Path) -> None:
    program = f"""if True:
        from tests import tiny
        from vmm import Machine
        machine = Machine(tiny.config({tiny.make(tmp_path, tiny.SPIN)!r}))
        machine.start()
        raise RuntimeError("a bug of the program")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: a bug of the program\n")
    assert done.stderr.count("Traceback") == 1


def test_the_root_logger_is_the_programs(tmp_path: Path) -> None:
    program = f"""if True:
        import logging
        from tests import tiny
        from vmm import Machine
        from vmm.debug import GdbServer, GdbTarget
        with Machine(tiny.config({tiny.make(tmp_path, tiny.POWEROFF)!r})) as machine:
            with GdbServer(machine, GdbTarget(port=0)):
                machine.run()
        assert not logging.getLogger().handlers and logging.getLogger().level == logging.WARNING
        loggers = [name for name in logging.root.manager.loggerDict if name.startswith("vmm")]
        assert not any(logging.getLogger(name).handlers for name in loggers)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
