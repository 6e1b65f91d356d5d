"""Limits on the rate of a disk or a network device: a record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.sizes import parse_size

MAX_RATE = 1 << 50


@dataclass(frozen=True)
class LimitConfig:
    """A token-bucket limit: a rate in the long run, and a burst after an idle time.

    Each direction of a network device has its own.

    :ivar bytes: a second; 0: no limit
    :ivar bytes_burst: bytes; 0: the amount of a tenth of a second
    :ivar ops: requests of a disk, or frames, a second; 0: no limit
    :ivar ops_burst: their number; 0: the amount of a tenth of a second
    """

    bytes: int = 0
    bytes_burst: int = 0
    ops: int = 0
    ops_burst: int = 0

    def __post_init__(self) -> None:
        for name in ("bytes", "bytes_burst", "ops", "ops_burst"):
            if not 0 <= getattr(self, name) <= MAX_RATE:
                raise ConfigError(f"limit: {name}={getattr(self, name)} is not 0 to {MAX_RATE}", code="limit-range")
        if (self.bytes_burst and not self.bytes) or (self.ops_burst and not self.ops):
            raise ConfigError("limit: a burst without a rate", code="limit-range", hint="give the rate too")


def parse_limit(bytes_text: str, ops_text: str, what: str) -> LimitConfig | None:
    """Parse ``RATE[:BURST]`` in bytes and in requests, either of them empty; sizes as in ``10M``.

    :raises ConfigError: an invalid text, or a rate of 0
    """
    if not bytes_text and not ops_text:
        return None
    return LimitConfig(*_pair(bytes_text, what), *_pair(ops_text, what))


def _pair(text: str, what: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    rate, _, burst = text.partition(":")
    numbers = parse_size(rate, what), parse_size(burst, what) if burst else 0
    if not numbers[0] or ":" in burst or (text.endswith(":")):
        raise ConfigError(f"{what}: {text!r} is not RATE[:BURST]", code="limit-syntax", hint="for example 10M:64M")
    return numbers
