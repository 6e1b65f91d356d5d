"""Work in the background while something else is made ready."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Task:
    """Runs *work* once, on a thread of its own; :meth:`join` waits for it and raises what it raised."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again where the result is wanted
            self._error = error

    def join(self) -> None:
        """Wait; any number of times."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait and forget how it went: for clean-up."""
        self._thread.join()
