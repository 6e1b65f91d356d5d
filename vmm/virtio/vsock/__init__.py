"""virtio-vsock: sockets between host and guest (virtio 1.2, 5.10): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass, replace
from vmm.options.syntax import Key, Syntax, number
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

VSOCK_BACKENDS = ("unix", "vhost")
SYNTAX = Syntax(
    "vsock",
    "a socket device: cid=N,uds=PATH[,backend=unix|vhost] (see below)",
    (
        Key("cid", "N", "the guest's context id, 3 to 4294967294", convert=number),
        Key("uds", "PATH", "the unix socket through which the host reaches the guest"),
        Key("backend", "|".join(VSOCK_BACKENDS), "vhost: the host's own AF_VSOCK"),
        Key("connections", "N", "largest number at a time (default: 16384)", convert=number),
    ),
)


@dataclass(frozen=True)
class VsockConfig(DeviceConfig):
    """A virtio-vsock device.

    :ivar cid: the guest's context id, 3 to 4294967294. With the ``unix`` backend, only the guest itself sees it
    :ivar uds: path of the unix socket through which the host reaches the guest (see :mod:`vmm.virtio.vsock.device`); a
        guest's connection goes to the socket ``<uds>_<port>``. Empty with ``vhost``
    :ivar backend: ``unix``; or ``vhost``: the host's AF_VSOCK, through ``/dev/vhost-vsock``
    :ivar connections: the largest number at a time, both directions together, each with a descriptor of this process;
        ``unix`` only
    """

    cid: int = 3
    uds: str = ""
    backend: str = "unix"
    connections: int = 16384

    many_files = True

    def __post_init__(self) -> None:
        if self.backend not in VSOCK_BACKENDS:
            raise ConfigError(
                f"vsock: backend={self.backend!r} is not one of {', '.join(VSOCK_BACKENDS)}", code="vsock-backend"
            )
        if not 3 <= self.cid < 0xFFFF_FFFF:
            raise ConfigError(f"vsock: cid {self.cid} is not 3 to 4294967294", code="vsock-cid")
        if not 1 <= self.connections <= 16384:
            raise ConfigError(f"vsock: connections={self.connections} is not 1 to 16384", code="vsock-connections")
        if (self.backend == "unix") != bool(self.uds):
            raise ConfigError(
                "vsock: backend=unix needs uds=PATH, and backend=vhost has none",
                code="vsock-uds",
                hint="for example --vsock cid=3,uds=/run/vm.sock",
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--vsock") -> VsockConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an unknown option, or an invalid value
        """
        return cls(**SYNTAX.parse(text, flag))

    def of_child(self, number: int) -> VsockConfig:
        """Its unix socket is ``<uds>.<number>``."""
        return replace(self, uds=f"{self.uds}.{number}") if self.uds else self

    @property
    def calls(self) -> int:
        from vmm.native import lib

        return int(lib.SECCOMP_VHOST if self.backend == "vhost" else lib.SECCOMP_VSOCK)

    def open(self, opening: Opening) -> VirtioDevice:
        if self.backend == "vhost":
            from vmm.virtio.vsock.vhost import VhostVsock

            return VhostVsock(self)
        from vmm.virtio.vsock.device import Vsock

        return Vsock(self)
