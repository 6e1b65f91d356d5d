"""What the administrator of a server allows."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SANDBOXES, MAX_SNAPSHOTS = 8, 8
MAX_OUTPUT, MAX_FILE = 50_000, 1 << 20
MAX_TIMEOUT, IDLE_TIMEOUT = 600.0, 1800.0
DEFAULT_TIMEOUT = 60.0
MAX_ENTRIES = 1000


@dataclass(frozen=True)
class Settings:
    """Clients can choose among *images*, and nothing else of what a sandbox can reach on the host.

    :ivar images: names of images, or folders with a root file system; the first is the default
    :ivar cpus: of each sandbox
    :ivar memory: of each sandbox
    :ivar network: ``none`` or ``user``
    :ivar max_sandboxes: at a time
    :ivar max_snapshots: at a time
    :ivar max_output: characters of each stream of a command's output that an answer has
    :ivar max_file: bytes of a file that are read or written by one call
    :ivar max_timeout: seconds that a command may run
    :ivar idle_timeout: seconds without a call after which a sandbox is killed
    :ivar config: the administrator's settings (``kata.toml``); empty: the usual file
    :ivar root: where states are; empty: the default of ``pyvmm-oci``
    """

    images: tuple[str, ...]
    cpus: float = 1
    memory: str = "512M"
    network: str = "none"
    max_sandboxes: int = MAX_SANDBOXES
    max_snapshots: int = MAX_SNAPSHOTS
    max_output: int = MAX_OUTPUT
    max_file: int = MAX_FILE
    max_timeout: float = MAX_TIMEOUT
    idle_timeout: float = IDLE_TIMEOUT
    config: str = ""
    root: str = ""
