"""What a request is refused with."""

from __future__ import annotations


class Fault(Exception):
    """A request that cannot be served.

    :ivar message: the ``fault_message`` of the answer
    :ivar status: of the answer
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
