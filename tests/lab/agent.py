"""PID 1 of the lab: starts the commands that the host side asks for and carries their output and exit status back.

Runs as `python -IS agent.py PORT` from the initramfs's hand-over (see init.sh) with channel.py beside it. It imports
little because every file it reads comes over 9p on an emulated CPU.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios

sys.path.insert(0, os.path.dirname(__file__))
import channel  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.lab import channel

CHUNK = channel.MAX_PAYLOAD


def set_window(fd: int, rows: int, columns: int) -> None:
    """Give the terminal `fd` its size, in characters."""
    size = rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


class Command:
    """One running command: its process, the descriptors to it, and stdin that it has not taken yet."""

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.pid = 0
        self.outputs: dict[int, int] = {}  # descriptor to read -> frame kind
        self.stdin = -1
        self.is_tty = False
        self.backlog = bytearray()
        self.stdin_ended = False

    def start(self, fields: list[bytes]) -> None:
        """Fork and exec what START asked for. Raises OSError with the failing call's reason."""
        rows, columns, cwd, argc = int(fields[0]), int(fields[1]), fields[2], int(fields[3])
        argv = fields[4 : 4 + argc]
        env = dict(entry.split(b"=", 1) for entry in fields[4 + argc :] if b"=" in entry)
        self.is_tty = rows > 0
        if self.is_tty:
            master, slave = os.openpty()
            set_window(master, rows, columns)
            child = (slave, slave, slave)
            ours: tuple[int, ...] = (master,)
            self.stdin, self.outputs = master, {master: channel.STDOUT}
        else:
            pairs = [os.pipe(), os.pipe(), os.pipe()]
            child = (pairs[0][0], pairs[1][1], pairs[2][1])
            ours = (pairs[0][1], pairs[1][0], pairs[2][0])
            self.stdin, self.outputs = ours[0], {ours[1]: channel.STDOUT, ours[2]: channel.STDERR}
        failed_read, failed_write = os.pipe()  # closes on a successful exec, else carries the reason
        self.pid = os.fork()
        if self.pid == 0:
            self._become(argv, env, cwd, child, failed_write)
        for fd in {*child, failed_write}:
            os.close(fd)
        for fd in ours:
            os.set_blocking(fd, False)
        reason = os.read(failed_read, 4096)
        os.close(failed_read)
        if reason:
            raise OSError(reason.decode(errors="replace"))

    def _become(
        self, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, child: tuple[int, int, int], failed: int
    ) -> None:
        try:
            os.setsid()
            if self.is_tty:
                fcntl.ioctl(child[0], termios.TIOCSCTTY, 0)
            for number, fd in enumerate(child):
                os.dup2(fd, number)
            for wanted in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
                signal.signal(wanted, signal.SIG_DFL)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            # chdir names the directory, exec only the program that it was looking for on PATH.
            what = os.fsdecode(error.filename or argv[0])
            os.write(failed, f"{what}: {os.strerror(error.errno or 0)}".encode())
        except BaseException as error:
            os.write(failed, repr(error).encode())
        finally:
            os._exit(127)

    def feed(self) -> int:
        """Write queued stdin as far as the command takes it; returns how many bytes went."""
        taken = 0
        try:
            while self.backlog and self.stdin >= 0:
                count = os.write(self.stdin, self.backlog[:CHUNK])
                del self.backlog[:count]
                taken += count
        except BlockingIOError:
            pass
        except OSError:  # it closed its stdin: what else comes is dropped, as a pipe would
            taken += len(self.backlog)
            self.backlog.clear()
            self._close_stdin()
        if self.stdin_ended and not self.backlog:
            self._close_stdin()
        return taken

    def _close_stdin(self) -> None:
        if self.stdin >= 0 and not self.is_tty:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Close what is left open."""
        self._close_stdin()
        for fd in self.outputs:
            os.close(fd)
        self.outputs = {}
        self.stdin = -1


class Agent:
    """The poll loop over the port, the commands' descriptors and SIGCHLD."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.parser = channel.Parser()
        self.commands: dict[int, Command] = {}
        self.wake_read, wake_write = os.pipe()
        for fd in (self.wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write)

    def send(self, kind: int, ident: int = 0, payload: bytes = b"") -> None:
        """Send one frame; blocks while the host does not read, which is the back pressure of output."""
        frame = channel.pack(kind, ident, payload)
        while frame:
            frame = frame[os.write(self.port, frame) :]

    def run(self) -> None:
        """Serve until the host side is gone."""
        self.send(channel.READY)
        while True:
            poll = select.poll()
            poll.register(self.port, select.POLLIN)
            poll.register(self.wake_read, select.POLLIN)
            owners: dict[int, Command] = {}
            for command in self.commands.values():
                for fd in command.outputs:
                    owners[fd] = command
                    poll.register(fd, select.POLLIN)
                if command.backlog and command.stdin >= 0:
                    owners[command.stdin] = command
                    poll.register(command.stdin, select.POLLOUT | (select.POLLIN if command.is_tty else 0))
            ready = poll.poll()
            for fd, events in ready:
                if fd in owners:
                    self._serve(owners[fd], fd, events)
            if any(fd == self.wake_read for fd, _ in ready):
                os.read(self.wake_read, 4096)
                self._reap()
            for fd, events in ready:
                if fd == self.port:
                    if events & select.POLLHUP:
                        return
                    self._receive(os.read(self.port, CHUNK))

    def _serve(self, command: Command, fd: int, events: int) -> None:
        if events & select.POLLOUT:
            self._feed(command)
        if fd in command.outputs and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._forward(command, fd)

    def _feed(self, command: Command) -> None:
        if taken := command.feed():
            self.send(channel.STDIN_TAKEN, command.ident, b"%d" % taken)

    def _forward(self, command: Command, fd: int) -> bool:
        """Send on one chunk of output; False when there is none left."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process left the terminal
            data = b""
        if data:
            self.send(command.outputs[fd], command.ident, data)
            return True
        del command.outputs[fd]
        if fd != command.stdin or not command.is_tty:
            os.close(fd)
        return False

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for command in list(self.commands.values()):
                if command.pid == pid:
                    self._end(command, code if code >= 0 else 128 - code)

    def _end(self, command: Command, status: int) -> None:
        # A process left behind may hold the pipes open for ever: take what is there, do not wait for their end.
        for fd in list(command.outputs):
            while self._forward(command, fd):
                pass
        command.close()
        del self.commands[command.ident]
        self.send(channel.EXIT, command.ident, b"%d" % status)

    def _receive(self, data: bytes) -> None:
        for kind, ident, payload in self.parser.feed(data):
            command = self.commands.get(ident)
            if kind == channel.START:
                self._start(ident, payload)
            elif kind == channel.SHUTDOWN:
                os.sync()
                self.send(channel.BYE)
            elif command is None:
                continue  # it ended while this frame was under way
            elif kind == channel.STDIN:
                command.stdin_ended = not payload
                command.backlog += payload
                self._feed(command)
            elif kind == channel.SIGNAL:
                try:
                    os.killpg(command.pid, int(payload))
                except ProcessLookupError:
                    pass
            elif kind == channel.WINDOW and command.is_tty:
                rows, columns = payload.split()
                set_window(command.stdin, int(rows), int(columns))

    def _start(self, ident: int, payload: bytes) -> None:
        command = Command(ident)
        try:
            command.start(payload.split(b"\0"))
        except OSError as error:
            command.close()
            self.send(channel.FAILED, ident, str(error).encode())
            self.send(channel.EXIT, ident, b"127")
        else:
            self.commands[ident] = command


if __name__ == "__main__":
    try:
        Agent(os.open(sys.argv[1], os.O_RDWR)).run()
    finally:
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write("o")
        signal.pause()
