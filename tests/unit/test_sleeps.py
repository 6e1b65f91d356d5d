"""What tools/sleeps.py finds, and what it takes for a reason."""

from __future__ import annotations

import pytest

from tools.sleeps import find_in_c, find_in_python, find_in_shell


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("time.sleep(1)", [1]),
        ("time.sleep(1)  # the time is the subject", []),
        ("# the time is the subject\ntime.sleep(1)", []),
        ("await asyncio.sleep(0)", []),
        ("while not ready():\n    time.sleep(1)", []),
        ("for _ in range(9):\n    time.sleep(1)", [2]),
        ("for _ in range(9):\n    if ready():\n        break\n    time.sleep(1)", []),
        ("while True:\n    def later():\n        time.sleep(1)", [3]),
        ('guest.check("sleep 1; cat file")', [1]),
        ('guest.check(f"{start} & sleep 0.5")', [1]),
        ('guest.check("sleep 600")', []),
        ('guest.check("until test -e file; do sleep 1; done")', []),
        ('guest.check(f"until test -e {file}; do sleep 1; done")', []),
        ('guest.check("asleep 1")', []),
        ('SCRIPT = """\nbegin\nsleep 1\n"""', [3]),
        ('# Such a program\nSCRIPT = """\nbegin\nsleep 1\n"""', []),
    ],
)
def test_python(text: str, found: list[int]) -> None:
    assert list(find_in_python(text)) == found


def test_shell() -> None:
    assert list(find_in_shell("begin\nsleep 1\n")) == [2]
    assert list(find_in_shell("# for the console\nsleep 1\nwhile :; do sleep 1; done\nsleep 1 # so\n")) == []


def test_c() -> None:
    assert list(find_in_c("\tkick();\n\tusleep(10);\n\tnanosleep(&t, NULL);\n")) == [2, 3]
    assert list(find_in_c("\twhile (!ready())\n\t\tusleep(10);\n\tusleep(10); /* nothing may come */\n")) == []
    assert list(find_in_c("\t/* nothing may come */\n\tusleep(10);\n\tw->ops->sleep(w);\n")) == []
