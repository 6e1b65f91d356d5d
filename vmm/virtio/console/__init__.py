"""virtio-console: the guest's hvc0 (virtio 1.2, 5.3): the record of a machine's console, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.syntax import Key, Syntax
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

CONSOLE_DEVICES = ("serial", "virtio")
SYNTAX = Syntax(
    "console-device",
    "the guest's console device: serial (ttyS0), virtio (hvc0, faster)",
    (
        Key("serial", "", "a 16550A serial port (the default)"),
        Key("virtio", "", "a virtio-console; the kernel's log goes there too"),
    ),
)


@dataclass(frozen=True)
class ConsoleConfig(DeviceConfig):
    """The destination of the guest's console, and its device in the guest.

    :ivar kind: ``none``; or ``fd``: the guest's bytes are written to *fd*, and the guest reads the input of
        :meth:`Machine.console_input`; the command line's ``stdio``, ``pty`` and ``file`` use it
    :ivar drop: what a slow reader of *fd* does not accept is dropped instead of delaying the guest
    :ivar device: ``serial``, the UART; or ``virtio``: the guest's ``hvc0``, many times faster, available once its
        driver runs. The guest's output to the UART goes to *fd* in both cases
    """

    kind: str = "none"
    fd: int = -1
    drop: bool = False
    device: str = "serial"

    def __post_init__(self) -> None:
        if self.device not in CONSOLE_DEVICES:
            raise ConfigError(
                f"console device {self.device!r}: not one of {', '.join(CONSOLE_DEVICES)}", code="console-device"
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--console-device") -> ConsoleConfig:
        """The device for a parsed text, whose console has no destination yet.

        :raises ConfigError: neither of :data:`CONSOLE_DEVICES`
        """
        return cls(device=text)

    @classmethod
    def parse_all(cls, texts: list[str], flag: str = "--console-device") -> tuple[ConsoleConfig, ...]:
        """The last one counts.

        :raises ConfigError: as :meth:`parse`
        """
        return (cls.parse(texts[-1], flag),)

    def open(self, opening: Opening) -> VirtioDevice:
        """The guest's ``hvc0``; every machine has the UART."""
        from vmm.virtio.console.device import VirtioConsole

        console = VirtioConsole(out_fd=self.fd, drop=self.drop)
        console.attach_host(opening.loop)
        return console
