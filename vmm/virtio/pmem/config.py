"""An image as memory: a record, and what users type for it."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass


@dataclass(frozen=True)
class PmemConfig:
    """An image that the guest has as memory (``/dev/pmem0``, ...): its pages are those of the host's page cache.

    :ivar path: a raw image file or a block device; a multiple of 2 MiB long, unless it is read-only
    :ivar read_only: the guest's writes go nowhere; many machines may have one image
    """

    path: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str, flag: str = "--pmem") -> PmemConfig:
        """From ``FILE[,ro]``; ``,,`` is a comma of FILE.

        :raises ConfigError: an option that is not known
        """
        path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        if not path or options not in ([], ["ro"]):
            raise ConfigError(
                f"{flag} {text!r}: not FILE or FILE,ro",
                code="pmem-syntax",
                hint="a comma in the file name is written twice",
            )
        return cls(path, bool(options))
