"""A memory balloon: a record, and what users type for it."""

from __future__ import annotations

from vmm.config.sizes import parse_size
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

_SWITCH = {"on": True, "off": False}


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
        """From ``on``, or ``size=SIZE``, ``free-page-reporting=on|off``, ``deflate-on-oom=on|off`` with commas.

        :raises ConfigError: an option that is not known, or a bad value
        """
        values: dict[str, bool | int] = {}
        for part in text.split(","):
            key, _, value = part.partition("=")
            if key == "size" and value:
                values[key] = parse_size(value, f"{flag} size")
            elif key in ("free-page-reporting", "deflate-on-oom") and value in _SWITCH:
                values[key.replace("-", "_")] = _SWITCH[value]
            elif part != "on":
                raise ConfigError(
                    f"{flag} {text!r}: {part!r} is not known",
                    code="balloon-syntax",
                    hint=f"{flag} on, or size=SIZE, free-page-reporting=on, deflate-on-oom=off, with commas between",
                )
        return cls(**values)  # type: ignore[arg-type]
