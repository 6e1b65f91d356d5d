"""The host's side of the lab: starts QEMU, runs commands in it, ends it.

`with Lab() as lab: status = lab.run(["pytest", "tests/guest"])`
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tools.distribution import Kernel, cache_dir

from . import channel, image, tsc
from .emulator import find_emulator
from .image import LabError

CHECKOUT = Path(__file__).resolve().parents[2]
SHARE = CHECKOUT / "build"
"""The one directory that the lab can write to, for results. What is written elsewhere in the lab is lost at its end."""

COVERED = ("/tmp/", "/run/", "/var/tmp/", "/dev/shm/")
"""Where the lab mounts a tmpfs over the host's directory."""

START_TIMEOUT = 120.0
"""Seconds until READY after which the start is given up; it takes about 5 on an idle machine."""

ICOUNT_CPU = "max,erms=off,fsrm=off"
"""TCG counts one instruction for each round of a `rep`. With ERMS kernels clear and copy memory byte by byte, so that a
page costs 4096 instructions, more than all the rest of a page fault; without it 512, which is nearer to what a CPU
takes."""

CPU = f"{ICOUNT_CPU},la57=off,smap=off,smep=off,pku=off,mpx=off,umip=off"
"""Without icount. CPU time of some guest tests: 159 s with all of QEMU's features, 148 s without ERMS, 126 s with page
tables of four levels as well. A TLB miss of a nested guest walks two tables, one within the other, and each exit
flushes the TLB. Without the others, which protect nobody here, tests take 5 % less: no STAC and CLAC around each copy
from a user, and less for XSAVE to look at."""

HOSTILE_CPU = "max"
"""Of a hostile lab: the model as QEMU has it."""

KERNEL_OPTIONS = (
    "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable random.trust_cpu=on panic=-1 apparmor=0 cryptomgr.notests"
    # On a loaded host no timer interrupt may come within the time that the check takes, and the kernel would panic.
    " no_timer_check"
    # Self-tests and key rings that cost the emulated CPU half a second and serve nothing here.
    " initcall_blacklist=jent_mod_init,init_encrypted,load_system_certificate_list,bpf_tcp_ca_kfunc_init"
)

DIED = re.compile(
    r"^[^\n]*(?:BUG: |Oops: |kernel BUG at|general protection|stack segment|double fault|Kernel panic)", re.MULTILINE
)
"""How the first line of what a Linux kernel says of its own death reads."""

Sink = int | Callable[[bytes], None]
"""Where output goes: a descriptor, or a function that is given each chunk."""


class Command:
    """A command that runs, or ran, in the lab. Made by Lab.popen()."""

    def __init__(self, lab: Lab, ident: int, stdout: Sink, stderr: Sink) -> None:
        self._lab = lab
        self.ident = ident
        self.status: int | None = None
        """None while it runs, then its exit status; 128 + N when signal N killed it."""
        self.room = channel.STDIN_WINDOW
        """Bytes of stdin that may be sent now."""
        self._sinks = {channel.STDOUT: stdout, channel.STDERR: stderr}

    def write(self, data: bytes) -> None:
        """Send `data` to its stdin; waits while it does not read."""
        for start in range(0, len(data), channel.MAX_PAYLOAD):
            chunk = data[start : start + channel.MAX_PAYLOAD]
            while self.room < len(chunk) and self.status is None:
                self._lab.pump()
            self.room -= len(chunk)
            self._lab.send(channel.STDIN, self.ident, chunk)

    def close_stdin(self) -> None:
        """Give it the end of file."""
        self._lab.send(channel.STDIN, self.ident)

    def send_signal(self, number: int) -> None:
        """Signal its process group."""
        self._lab.send(channel.SIGNAL, self.ident, b"%d" % number)

    def set_window(self, rows: int, columns: int) -> None:
        """Tell its terminal its size."""
        self._lab.send(channel.WINDOW, self.ident, b"%d %d" % (rows, columns))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.status is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"the command in the lab did not end within {timeout:g} s")
            self._lab.pump(left)
        return self.status

    def deliver(self, kind: int, payload: bytes) -> None:
        """Take one frame from the agent."""
        if kind == channel.EXIT:
            self.status = int(payload)
        elif kind == channel.STDIN_TAKEN:
            self.room += int(payload)
        elif kind == channel.FAILED:
            self._emit(channel.STDERR, b"lab: cannot run " + payload + b"\n")
        elif kind in self._sinks:
            self._emit(kind, payload)

    def _emit(self, kind: int, data: bytes) -> None:
        sink = self._sinks[kind]
        if not isinstance(sink, int):
            sink(data)
            return
        while data:
            data = data[os.write(sink, data) :]


class Lab:
    """The nested KVM host: a QEMU machine that emulates AMD-V, with the host's root file system inside (see docs).

    Started by start() or `with`, ended by close(). QEMU dies with the thread that started it, kill -9 included.
    Changes that the host makes to files which the lab has read are not seen in it.
    """

    def __init__(
        self,
        *,
        icount: bool = False,
        hostile: bool = False,
        cpus: int = 2,
        memory: str = "4G",
        share: Path = SHARE,
    ) -> None:
        """`icount` makes one instruction one nanosecond of the lab's clock, on one CPU (`cpus` is ignored then).

        That clock jumps while the lab waits for the host, so a benchmark copies all that it reads to /tmp first.

        `hostile` is for races: another CPU model, and one process for each CPU that never sleeps, with the priority of
        all others.
        """
        self.icount = icount
        self.hostile = hostile
        self.cpus = 1 if icount else cpus
        self.memory = memory
        self.share = share
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._console = -1
        self._parser = channel.Parser()
        self._commands: dict[int, Command] = {}
        self._next_ident = 1
        self._ready = False
        self._said_bye = False

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start QEMU and wait for the agent. Raises LabError when a tool is missing or the lab does not come up."""
        self.share.mkdir(parents=True, exist_ok=True)
        kernel, initramfs = image.build(self._config())
        self._console = os.memfd_create("lab-console")
        initrd = os.memfd_create("lab-initrd")
        ours, theirs = socket.socketpair()
        try:
            with open(initrd, "wb", closefd=False) as file:
                file.write(initramfs)
            argv = self._command_line(kernel, initrd, theirs.fileno())
            self._qemu = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                pass_fds=(self._console, initrd, theirs.fileno()),
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )
        except FileNotFoundError as error:
            raise LabError(f"{error.filename} is not installed: apt-get install qemu-system-x86 util-linux") from None
        finally:
            theirs.close()
            os.close(initrd)
            self._port = ours
        deadline = time.monotonic() + START_TIMEOUT * (10 if self.icount else 1)
        try:
            while not self._ready:
                if time.monotonic() > deadline:
                    raise LabError(f"the lab did not come up in time; its console says:\n{self.console()}")
                self.pump(5.0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the lab, flushing the shared directory when it still answers. Does nothing the second time."""
        if self._port is not None and self._qemu is not None:
            try:
                if self._ready and self._qemu.poll() is None:
                    self.send(channel.SHUTDOWN)
                    deadline = time.monotonic() + 5
                    while not self._said_bye and time.monotonic() < deadline:
                        self.pump(1.0)
            except (LabError, OSError):
                pass
            finally:
                self._qemu.kill()
                self._qemu.wait()
        if self._port is not None:
            self._port.close()
            self._port = None
        self._ready = False
        if self._console >= 0:
            os.close(self._console)
            self._console = -1

    def console(self) -> str:
        """The end of what the lab's kernel and QEMU printed; when the kernel died, from where it says of what."""
        size = os.fstat(self._console).st_size
        start = max(0, size - 32000)
        text = os.pread(self._console, size - start, start).decode(errors="replace").strip()
        died = DIED.search(text)
        return (text[died.start() :][:8000] if died else text[-4000:]) or "(nothing)"

    def popen(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: Sink = 1,
        stderr: Sink = 2,
        tty: tuple[int, int] | None = None,
    ) -> Command:
        """Start `argv` in the lab: in this directory, with this environment unless `cwd` and `env` say otherwise.

        `tty` (rows, columns) gives it a terminal, all of whose output goes to `stdout`. Output moves only while some
        method of the lab or of one of its commands runs.
        """
        ident = self._next_ident
        self._next_ident += 1
        command = self._commands[ident] = Command(self, ident, stdout, stderr)
        variables = {**(os.environ if env is None else env), "PYVMM_LAB": "icount" if self.icount else "1"}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling takes the lab long, and what it writes ends with it
        variables["PYVMM_LAB_SHARE"] = str(self.share)
        payload = channel.pack_start(
            [os.fsencode(word) for word in argv],
            [os.fsencode(f"{name}={value}") for name, value in variables.items()],
            os.fsencode(cwd or os.getcwd()),
            tty,
        )
        self.send(channel.START, ident, payload)
        return command

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        stdout: Sink = 1,
        stderr: Sink = 2,
        timeout: float | None = None,
    ) -> int:
        """Run `argv` to its end and return its exit status; 127 when there is no such program.

        Raises TimeoutError after `timeout` seconds (the command is killed) and LabError when the lab itself ended.
        """
        command = self.popen(argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr)
        command.write(stdin)
        command.close_stdin()
        try:
            return command.wait(timeout)
        except TimeoutError:
            command.send_signal(signal.SIGKILL)
            raise

    def fileno(self) -> int:
        """The descriptor to watch for pump(). Raises LabError when the lab is not running."""
        if self._port is None:
            raise LabError("the lab is not running")
        return self._port.fileno()

    def send(self, kind: int, ident: int = 0, payload: bytes = b"") -> None:
        """Send one frame to the agent. Raises LabError when the lab ended."""
        if self._port is None:
            raise LabError("the lab is not running")
        try:
            self._port.sendall(channel.pack(kind, ident, payload))
        except OSError:
            raise self._ended() from None

    def pump(self, timeout: float | None = None) -> None:
        """Wait up to `timeout` seconds for frames and deliver them. Raises LabError when the lab ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            if not selector.select(timeout):
                return
        assert self._port is not None
        try:
            data = self._port.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._ended()
        for kind, ident, payload in self._parser.feed(data):
            if kind == channel.READY:
                self._ready = True
            elif kind == channel.BYE:
                self._said_bye = True
            elif command := self._commands.get(ident):
                command.deliver(kind, payload)
                if command.status is not None:
                    del self._commands[ident]

    def _ended(self) -> LabError:
        self._ready = False
        return LabError(f"the lab ended by itself; its console says:\n{self.console()}")

    def _config(self) -> str:
        system = Path("/usr/bin/python3")  # starts faster than most others, and is certainly not a wrapper script
        python = system if system.exists() else Path(sys.executable).resolve()
        wanted = {CHECKOUT, cache_dir().parent, Path(sys.prefix), Path(sys.base_prefix), Path.cwd(), Path.home()}
        keep = sorted(str(path) for path in wanted if str(path).startswith(COVERED))
        load = self.cpus if self.hostile else 0
        values = {"AGENT_PYTHON": str(python), "SHARE": str(self.share), "KEEP": "\n".join(keep), "LOAD": str(load)}
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())

    def _command_line(self, kernel: Kernel, initrd: int, port: int) -> list[str]:
        export = "security_model=none,multidevs=remap"
        argv = [*find_emulator(), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        model = HOSTILE_CPU if self.hostile else ICOUNT_CPU if self.icount else CPU
        argv += ["-M", "q35", "-cpu", model, "-smp", str(self.cpus), "-m", self.memory]
        options = KERNEL_OPTIONS
        if self.icount:
            argv += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
        else:
            argv += ["-accel", "tcg,thread=multi"]
            options += f" tsc_early_khz={tsc.khz()}"
        argv += ["-kernel", str(kernel.file), "-initrd", f"/proc/self/fd/{initrd}", "-append", options]
        argv += ["-chardev", f"file,id=console,path=/proc/self/fd/{self._console},append=on"]
        argv += ["-serial", "chardev:console"]
        argv += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"]
        argv += ["-device", "virtserialport,chardev=agent,name=lab"]
        argv += ["-fsdev", f"local,id=root,path=/,readonly=on,{export}"]
        argv += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=rootfs"]
        argv += ["-fsdev", f"local,id=share,path={str(self.share).replace(',', ',,')},{export}"]
        argv += ["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]
        if setpriv := shutil.which("setpriv"):
            return [setpriv, "--pdeathsig", "KILL", *argv]
        raise LabError("setpriv is not installed: apt-get install util-linux")
