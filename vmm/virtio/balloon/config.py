"""A memory balloon: a record, and what users type for it."""

from __future__ import annotations

from vmm.config.options import Key, Syntax, size, switch
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

SYNTAX = Syntax(
    "balloon",
    (
        Key("on", "", "with nothing else: a balloon that is empty"),
        Key("size", "SIZE", "memory that the guest is to do without from the start", convert=size),
        Key("free-page-reporting", "on|off", "give back whatever the guest does not use", convert=switch),
        Key("deflate-on-oom", "on|off", "off: a guest that is short of memory gets nothing back", convert=switch),
    ),
)


@dataclass(frozen=True)
class BalloonConfig:
    """A memory balloon: memory of the guest's that goes back to the host.

    :ivar size: bytes that the guest is to do without from the start
    :ivar free_page_reporting: the guest tells which of its memory is free, and the host takes it back until it is used
    :ivar deflate_on_oom: the guest may take memory out of the balloon before it kills a process for want of it
    """

    size: int = 0
    free_page_reporting: bool = False
    deflate_on_oom: bool = True

    def __post_init__(self) -> None:
        if self.size < 0 or self.size % 4096:
            raise ConfigError(f"balloon of {self.size} bytes: not a multiple of 4096", code="balloon-size")

    @classmethod
    def parse(cls, text: str, flag: str = "--balloon") -> BalloonConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an option that is not known, or a bad value
        """
        values = SYNTAX.parse(text, flag)
        values.pop("on", None)
        return cls(**values)
