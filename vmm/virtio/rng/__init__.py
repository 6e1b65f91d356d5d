"""virtio-rng: randomness for the guest (virtio 1.2, 5.4): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.limit import parse_limit
from vmm.options.syntax import Key, Syntax, word
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.limit import LimitConfig
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

SYNTAX = Syntax(
    "rng",
    "an entropy device (/dev/hwrng): on, off, or source=FILE,bps=BYTES (default: on)",
    (
        Key("on", "", "alone: bytes of the host's kernel, no limit"),
        Key("off", "", "alone: none"),
        Key("source", "FILE", "a character device to read instead of getrandom(2)", convert=word),
        Key("bps", "BYTES[:BURST]", "no more a second", convert=word),
    ),
)


@dataclass(frozen=True)
class RngConfig(DeviceConfig):
    """A virtio-rng device, the guest's ``/dev/hwrng``.

    :ivar source: path of a character device, such as ``/dev/hwrng``; empty: getrandom(2)
    :ivar limit: bytes a second, or None; the number of requests is not limited
    """

    source: str = ""
    limit: LimitConfig | None = None

    opens_ahead = True

    def __post_init__(self) -> None:
        if self.limit is not None and (self.limit.ops or not self.limit.bytes):
            raise ConfigError("rng: only bytes can be limited", code="rng-limit", hint="for example bps=64K")

    @classmethod
    def parse(cls, text: str, flag: str = "--rng") -> RngConfig:
        """From :data:`SYNTAX`, but ``off``.

        :raises ConfigError: an unknown option, or an invalid value
        """
        values = SYNTAX.parse(text, flag)
        if "off" in values or ("on" in values and len(values) > 1):
            alone = "off" if "off" in values else "on"
            raise ConfigError(f"{flag} {text!r}: {alone} stands alone", code="rng-syntax", hint=SYNTAX.usage(flag))
        return cls(values.get("source", ""), parse_limit(values.get("bps", ""), "", f"{flag} {text!r}"))

    @classmethod
    def parse_all(cls, texts: list[str], flag: str = "--rng") -> tuple[RngConfig, ...]:
        """The last one counts; ``off``: no device.

        :raises ConfigError: as :meth:`parse`
        """
        return () if texts[-1] == "off" else (cls.parse(texts[-1], flag),)

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.rng.device import Rng

        return Rng(self)
