"""Which tests run where: those marked `guest` need KVM that can run a guest."""

from __future__ import annotations

import signal

import pytest

from tests import order
from tests.driver import Guest
from tools.where import why_unusable

# A shell starts what it puts in the background with some signals ignored, nohup with another, and what tests start
# would inherit that: no start takes an image of one that was made with other signals.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Tests of devices that go through virtqueues: those of a module run with both formats by
# pytestmark = pytest.mark.usefixtures("virtqueues")
FORMATS = ("split", "packed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip long tests unless they are asked for, and guest tests, with the way to run them, where no guest can run.

    Workers of pytest-xdist, which deals tests out in their order, start with the files that take longest.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: order.rank(item.nodeid))
    for item in items if "long" not in config.option.markexpr else ():
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: `make test-long`"))
    reason = why_unusable()
    if reason is None:
        return
    way = "run them in the lab: `make test`, or python -m tests.lab run -- .venv/bin/pytest tests/guest"
    for item in items:
        if item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.skip(reason=f"no usable KVM here ({reason}); {way}"))


@pytest.fixture(params=FORMATS)
def virtqueues(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The format of the queues of all :class:`tests.driver.Guest`."""
    monkeypatch.setattr(Guest, "packed", request.param == "packed")
    return str(request.param)
