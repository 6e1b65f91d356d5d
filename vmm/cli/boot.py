"""``pyvmm boot``: boot a Linux kernel in a virtual machine."""

from __future__ import annotations

import gc
import posix
import sys
import time

from vmm.cli.options import DeviceOption, Option, parse
from vmm.cli.options import parser as make_parser
from vmm.config import BootConfig, MachineConfig, MemoryConfig
from vmm.errors import ConfigError, VmmError
from vmm.faststart import bundle
from vmm.faststart.builtin import stat
from vmm.faststart.record import replace
from vmm.options.sizes import parse_size
from vmm.processes.jail import enter as jail
from vmm.virtio.blk import DiskConfig
from vmm.virtio.console import ConsoleConfig
from vmm.virtio.fs import ShareConfig
from vmm.virtio.registry import BUILT_IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from vmm.cli.console import Console
    from vmm.cli.signals import Signals
    from vmm.machine.machine import Machine
    from vmm.options.cpu import CpuConfig
    from vmm.processes.outside import Outside

PROG = "pyvmm boot"
DESCRIPTION = "Boot a Linux kernel in a virtual machine, with its console on this terminal."
EPILOG = """\
Sizes take K, M, G or T.  A comma in a name is written twice.

{lists}

The guest mounts a share with: mount -t virtiofs TAG /mnt

With --vsock, programs of the host connect to the unix socket PATH, write "CONNECT <port>\\n" and read "OK ...\\n"
when the guest has accepted; the guest's connections to port P of CID 2 arrive at the unix socket PATH_P.

With --pmem the guest maps the pages of the host's cache as memory; guests that use one image ,ro share them. To use it
as the root: --cmdline "root=/dev/pmem0 rootflags=dax ro".

Words after -- are appended to the kernel command line, for the guest's first program: -- PROGRAM [ARGUMENT]...

On the console, Ctrl-A x ends the machine, Ctrl-A h lists the other keys.

exit status:
    0  the guest powered off
    1  the host failed: no usable KVM, no memory, an I/O error
    2  the command line, or a file that it names, is wrong
   16  the guest asked for a reboot
   17  the guest's kernel panicked
   18  triple fault: the guest crashed the (virtual) CPU
   19  the guest did something after which KVM cannot continue
   20  ended from the console with Ctrl-A x
  124  the time of --timeout is over
  130  interrupted by Ctrl-C     143  ended by SIGTERM     129  by SIGHUP
  141  nobody reads the console's output any more (pyvmm boot ... | head)

environment:
  PYVMM_WARM=0  start a new Python, not from a process image in ~/.cache/pyvmm

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --memory 512M --cpus 2
"""

DEVICE_OPTIONS = tuple([DeviceOption(device) for device in BUILT_IN])
JAIL = Option(
    "--jail",
    "HOW",
    "drop user, files and networks before the start: auto, on, off (default: auto)",
    default="auto",
)
CGROUP = Option("--cgroup", "DIR", "run the machine and its helper processes in this cgroup", complete="directory")
API = Option("--api-sock", "PATH", "serve Firecracker's API at the socket PATH, see pyvmm firecracker --help")
CONTROL = (
    Option("--control", "PATH", "serve the control socket PATH: pyvmm snapshot, disk, share, fork, resize"),
    Option(
        "--disks-from",
        "DIR",
        "allow pyvmm disk add for files and devices below DIR, on PCI; may be repeated",
        many=True,
        complete="directory",
    ),
    Option(
        "--shares-from",
        "DIR",
        "allow pyvmm share add for directories below DIR, on PCI; may be repeated",
        many=True,
        complete="directory",
    ),
)
OPTIONS = (
    Option(
        "--kernel",
        "FILE",
        "the kernel, an ELF vmlinux or a bzImage (default: that of the package pyvmm-guest, where installed)",
        complete="file",
    ),
    Option("--rootfs", "PATH", "the root file system: a disk image (/dev/vda), or a directory", complete="file"),
    Option("--initrd", "FILE", "an initial ramdisk", complete="file"),
    *DEVICE_OPTIONS,
    Option("--memory", "SIZE", "guest memory (default: 256M)", default="256M"),
    Option("--cpus", "N", "number of vCPUs, 1 to 32 (default: 1)", default="1"),
    Option("--max-cpus", "N", "largest number of vCPUs while it runs, see pyvmm resize (default: that of --cpus)"),
    Option(
        "--cpu",
        "WHAT",
        "processor: guest; host: also performance counters, VMX, SVM; or template:FILE (default: guest)",
        default="guest",
    ),
    Option("--cmdline", "TEXT", "added to the kernel command line", default=""),
    Option("--console", "WHERE", "stdio, pty, file:PATH or none (default: stdio)", default="stdio"),
    Option("--entry", "HOW", "kernel entry: auto, pvh, linux64 (default: auto)", default="auto"),
    Option("--transport", "HOW", "how devices are found: mmio (faster), pci (default: mmio)", default="mmio"),
    Option("--virtqueues", "FORMAT", "format of the devices' queues: split, packed (default: split)", default="split"),
    Option("--huge-pages", "HOW", "back guest memory with: auto, none, thp, hugetlb (default: auto)", default="auto"),
    Option("--prefault", "", "touch all guest memory before the start"),
    Option("--timeout", "SECONDS", "end the machine after this time"),
    Option("--gdb", "WHERE", "accept gdb at unix:PATH or tcp:[HOST:]PORT; with ,wait the guest waits for it"),
    JAIL,
    CGROUP,
    *CONTROL,
    API,
    Option("--json", "", "write messages and the result to stderr as JSON, one object a line"),
    Option("--stats", "", "print at the end: exits, kicks, interrupts, bytes, boot phases"),
)

EXIT_STATUS = {"poweroff": 0, "reboot": 16, "panic": 17, "triple-fault": 18, "timeout": 124, "escape": 20}
_STOPPED = {"escape": "ended from the console", "snapshot": "saved and ended"}
SIGNALS = {"SIGINT": 2, "SIGTERM": 15, "SIGHUP": 1, "SIGPIPE": 13}


def epilog() -> str:
    """The part of ``--help`` after the options, with the table of each device."""
    return EPILOG.format(lists="\n\n".join(device.syntax().help(device.flag) for device in BUILT_IN))


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    return make_parser(PROG, DESCRIPTION, OPTIONS, epilog())


def number(text: str, flag: str, convert: type[int] | type[float]) -> Any:
    """Parse the value of *flag* as a positive number.

    :raises ConfigError: it is none
    """
    try:
        value = convert(text)
    except ValueError:
        value = -1
    if not 0 < value < 1 << 31:
        raise ConfigError(f"{flag} {text!r} is not a positive number", code="number-syntax")
    return value


def take_limits(values: dict[str, Any]) -> None:
    """Validate the options that limit the machine, and enter the control group.

    :raises ConfigError: one of them is invalid
    :raises HostError: it is not a control group, or this process may not enter it
    """
    jail.parse(values["jail"])
    if values["timeout"] is not None:
        values["timeout"] = number(values["timeout"], "--timeout", float)
    if values["cgroup"] is not None:
        jail.enter_cgroup(values["cgroup"])


def _rootfs(text: str) -> DiskConfig | ShareConfig:
    share = _is_folder(text.replace(",,", "\0").split(",")[0].replace("\0", ","))
    return ShareConfig.parse(text, "--rootfs") if share else DiskConfig.parse(text, "--rootfs")


def _cpu(text: str) -> str | CpuConfig:
    kind, colon, path = text.partition(":")
    if kind == "template" and colon:
        from vmm.options.cpu import CpuConfig

        return CpuConfig.read(path)
    return text


def devices_from(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a MachineConfig that the flags of devices set."""
    fields: dict[str, Any] = {}
    for option in DEVICE_OPTIONS:
        texts = values[option.name]
        if texts:
            device = option.device
            records = device.load().parse_all(texts, device.flag)
            if device.one:
                fields[device.field] = records[-1] if records else None
            else:
                fields[device.field] = fields.get(device.field, ()) + records
    return fields


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(posix.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def config_from(values: dict[str, Any], console: ConsoleConfig) -> MachineConfig:
    """The machine that the command line describes.

    :param console: where its console goes
    :raises ConfigError: an invalid value
    """
    devices = devices_from(values)
    if "console" in devices:
        console = replace(console, device=devices.pop("console").device)
    config = MachineConfig(
        boot=BootConfig(values["kernel"], values["initrd"], values["cmdline"], values["entry"]),
        memory=MemoryConfig(parse_size(values["memory"], "--memory"), values["huge_pages"], values["prefault"]),
        cpus=number(values["cpus"], "--cpus", int),
        max_cpus=0 if values["max_cpus"] is None else number(values["max_cpus"], "--max-cpus", int),
        rootfs=None if values["rootfs"] is None else _rootfs(values["rootfs"]),
        console=console,
        transport=values["transport"],
        virtqueues=values["virtqueues"],
        cpu=_cpu(values["cpu"]),
        **devices,
    )
    return open_to_shares(config, values)


def open_to_shares(config: MachineConfig, values: dict[str, Any]) -> MachineConfig:
    """The same machine, with memory that servers of shares can map, if shares may be added."""
    if not values["shares_from"] or config.shares_memory():
        return config
    return replace(config, memory=replace(config.memory, shared=True))


class Messages:
    """Writes messages to stderr: lines for people, or JSON objects."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def event(self, kind: str, text: str = "", **fields: Any) -> None:
        """Report that *kind* happened; people see only *text*."""
        if self.as_json:
            import json

            sys.stderr.write(json.dumps({"event": kind, **fields, **({"detail": text} if text else {})}) + "\n")
        elif text:
            sys.stderr.write(f"pyvmm: {text}\n")
        sys.stderr.flush()


class Run:
    """A machine that a command runs, with everything in this process that belongs to it.

    :ivar values: the command's options
    """

    __slots__ = ("console", "machine", "messages", "outside", "signals", "values")

    def __init__(
        self,
        machine: Machine,
        signals: Signals,
        console: Console,
        values: dict[str, Any],
        messages: Messages,
        outside: Outside,
    ) -> None:
        self.machine = machine
        self.signals = signals
        self.console = console
        self.values = values
        self.messages = messages
        self.outside = outside


def _start(run: Run) -> list[str]:
    """Run the guest, in a jail if possible; returns the names of the barriers in force."""
    from vmm.processes import outside as command

    machine, values, messages, outside = run.machine, run.values, run.messages, run.outside
    why = command.obstacle(machine.config, values)
    if values["jail"] == jail.ON and why:
        raise ConfigError(f"--jail=on: {why}", code="jail-obstacle", hint="--jail=auto does without")
    if values["jail"] == jail.OFF or why:
        messages.event("jail", f"no jail: {why or '--jail=off'}", walls=[])
        confined = values["jail"] != jail.OFF and not machine.config.opens_files()
        machine.start(confined=confined, terminal=command.has_terminal())
        if outside.gdb is not None:
            outside.gdb.start()
        return []
    names: list[str] = []

    def ready() -> None:
        walls = command.enter(machine, values, outside)
        names.extend(walls.names())
        if walls.missing:
            messages.event("jail", f"a part of the jail is missing: {walls.missing}", walls=names)

    machine.start(ready, confined=True, terminal=command.has_terminal())
    if outside.control is not None:
        outside.control.start()
    if outside.gdb is not None:
        outside.gdb.start()
    return names


def run_machine(run: Run) -> int:
    """Run the machine to its end, and serve its control socket; the exit status."""
    where = run.console.where
    if where:
        run.messages.event("console", f"console on {where}", where=where)
    run.signals.watch(run.machine)
    path = run.values["control"]
    if path is None or run.outside.control is not None:
        return _run(run)
    from vmm.control.server import ControlServer

    with ControlServer(run.machine, path, run.outside.below, run.outside.below_shares):
        return _run(run)


def _run(run: Run) -> int:
    machine, console, values, messages = run.machine, run.console, run.values, run.messages
    console.connect(
        machine.loop,
        machine.console,
        lambda: machine.stop(detail="escape"),
        lambda: machine.stop(detail="SIGPIPE"),
    )
    try:
        walls = _start(run)
        run.signals.wait(values["timeout"])
        end = machine.wait(0) or machine.expire(values["timeout"])
    finally:
        console.restore()
    status = EXIT_STATUS.get(end.kind, 1)
    if end.kind == "stopped" and end.detail == "snapshot":
        status = 0
    elif end.kind == "stopped":
        status = 128 + SIGNALS[end.detail] if end.detail in SIGNALS else EXIT_STATUS["escape"]
    texts = {
        "poweroff": "",
        "reboot": "the guest asked for a reboot" + (f"; {end.detail}" if end.detail else ""),
        "panic": "the guest's kernel panicked",
        "triple-fault": f"triple fault: {end.detail}",
        "timeout": end.detail,
        "stopped": f"ended by {end.detail}"
        if end.detail in SIGNALS
        else _STOPPED.get(end.detail, "ended by its control socket"),
    }
    extra: dict[str, Any] = {}
    if values["stats"]:
        from vmm.machine.stats import collect, table

        extra["stats"] = collect(machine)
        if not messages.as_json:
            sys.stderr.write(table(extra["stats"]))
            sys.stderr.write(f"jail  {' '.join(walls) or 'none'}\n")
    messages.event(end.kind, texts.get(end.kind, end.detail), status=status, jail=walls, **extra)
    return status


def split_words(argv: list[str]) -> tuple[list[str], str]:
    """The command line without ``--`` and what follows, and that as the end of the kernel's: Linux passes it to init.

    :raises ConfigError: a word contains a quotation mark
    """
    if "--" not in argv:
        return argv, ""
    at = argv.index("--")
    words = argv[at + 1 :]
    for word in words:
        if '"' in word:
            raise ConfigError(
                f"{word}: a quotation mark cannot be passed to the guest by the kernel's command line",
                code="cmdline-quote",
            )
    return argv[:at], " ".join(["--", *(f'"{word}"' if not word or word.split() != [word] else word for word in words)])


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    entered = time.monotonic()
    if any(word.partition("=")[0] == API.flag for word in argv):
        return _serve_api(argv)
    argv, words = split_words(argv)
    values = parse(PROG, DESCRIPTION, OPTIONS, argv, epilog)
    if words:
        values["cmdline"] = f"{values['cmdline']} {words}"
    messages = Messages(values["json"])
    try:
        return _boot(values, messages, entered)
    except VmmError as error:
        if not messages.as_json:
            raise
        from vmm.cli.commands import exit_status

        status = exit_status(error)
        messages.event("error", str(error), code=error.code, hint=error.hint, status=status)
        return status


def _serve_api(argv: list[str]) -> int:
    """Requests describe the machine, not this command line."""
    from vmm.cli.plugins import external_command

    command = external_command("firecracker")
    assert command is not None
    return command.main(argv)


def _packaged_kernel(messages: Messages) -> str:
    """The path of the kernel in the package pyvmm-guest.

    :raises ConfigError: it is not installed
    """
    try:
        import pyvmm_guest
    except ImportError:
        from vmm.cli.plugins import GUEST_PACKAGE

        raise ConfigError(
            "there is no --kernel, and the package pyvmm-guest, which has one, is not installed",
            code="kernel-missing",
            hint=f"name a kernel with --kernel FILE, or in a checkout: {GUEST_PACKAGE}",
        ) from None
    path = pyvmm_guest.kernel()
    messages.event("kernel", f"no --kernel: booting that of pyvmm-guest, {path}", path=path)
    return path


def _boot(values: dict[str, Any], messages: Messages, entered: float) -> int:
    if values["kernel"] is None:
        values["kernel"] = _packaged_kernel(messages)
    config_from(values, ConsoleConfig())  # mistakes are told before a terminal or file is touched
    take_limits(values)
    gdb = None
    if values["gdb"] is not None:
        from vmm.debug import GdbServer, GdbTarget

        gdb = GdbTarget.parse(values["gdb"])
    from vmm.cli.open_console import open_console
    from vmm.cli.signals import Signals
    from vmm.machine.machine import Machine
    from vmm.processes.outside import Outside, import_the_rest

    with open_console(values["console"]) as console, Signals() as signals:
        config = config_from(values, ConsoleConfig("fd", console.out_fd, console.drop))
        if any(device.many_files for device in config.device_configs()):
            from vmm.open_files import allow_open_files

            allow_open_files()
        with Outside(config, values) as outside, Machine(config) as machine:
            machine.phases.insert(0, ("entered", entered))
            if values["jail"] != jail.OFF:
                import_the_rest(as_json=values["json"], stats=values["stats"])
            bundle.keep()
            gc.freeze()
            gc.enable()
            run = Run(machine, signals, console, values, messages, outside)
            if gdb is None:
                return run_machine(run)
            with GdbServer(machine, gdb, begin=False) as server:
                outside.gdb = server
                messages.event("gdb", f"gdb: target remote {server.address}", where=server.address)
                return run_machine(run)
