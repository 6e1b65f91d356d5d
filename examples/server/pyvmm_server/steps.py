"""The steps of a template build: validated from a request, executed in a sandbox."""

from __future__ import annotations

import mmap
import posixpath
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pyvmm_sandbox import CommandTimeout
from pyvmm_sandbox.commands import finish
from pyvmm_server import bodies
from pyvmm_server.errors import ClientError, not_there
from pyvmm_server.users import DEFAULT, User, Users

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_sandbox import Command, Result, Sandbox

MOST_STEPS = 1000
_LONGEST_LINE = 2000
_POLL_S = 0.2
_COMMAND = """\
cd -- "$1" || exit
if [ -e /bin/bash ]; then exec /bin/bash -l -c "$2"; fi
exec /bin/sh -l -c "$2"
"""
_IN_BACKGROUND = f"({_COMMAND}) >/dev/null 2>&1 </dev/null &"
_WORKDIR = '[ -d "$1" ] || { mkdir -p -- "$1" && { [ "$2" = 0:0 ] || chown "$2" "$1"; }; }'
_COPY = """\
set -e
unpack=$1 source=$2 hidden=$3 dest=$4 owner=$5 mode=$6
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar "$unpack" -o -C "$work" -f -
make() { [ -d "$1" ] || { mkdir -p "$1"; [ "$owner" = 0:0 ] || chown "$owner" "$1"; }; }
matches() {
    case ${1##*/} in .|..) [ -z "$hidden" ] || return 1 ;; esac
    [ -e "./$1" ] || [ -L "./$1" ]
}
cd "$work"
IFS=
set -- $source $hidden
count=0
for each; do if matches "$each"; then count=$((count + 1)); fi; done
[ $count -gt 0 ] || { echo "no file matches $source" >&2; exit 1; }
for each; do
    matches "$each" || continue
    each=./$each
    [ "$owner" = 0:0 ] || chown -hR "$owner" "$each"
    [ -z "$mode" ] || chmod -R "$mode" "$each"
    if [ -d "$each" ] && [ ! -L "$each" ]; then
        make "$dest"
        for entry in "$each"/* "$each"/.[!.]* "$each"/..?*; do
            if [ -e "$entry" ] || [ -L "$entry" ]; then cp -a "$entry" "$dest/"; fi
        done
    elif [ $count -gt 1 ] || [ -d "$dest" ] || [ "${dest%/}" != "$dest" ]; then
        make "$dest"
        cp -a "$each" "$dest/"
    else
        make "$(dirname "$dest")"
        cp -a "$each" "$dest"
    fi
done
"""
"""Copies from an archive as COPY of a Dockerfile does: folders by content, files into or as the target."""
_PORT = re.compile(r'\[ -n "\$\(ss -Htuln sport = :([0-9]{1,5})\)" \]|ss -tuln \| grep :([0-9]{1,5})')
_LISTENS = "grep -qE '^ *[0-9]+: [0-9A-F]+:{0:04X} [0-9A-F]+:0000 0A' /proc/net/tcp /proc/net/tcp6 2>/dev/null"


class BuildError(Exception):
    """The build failed; :attr:`message` is a sentence for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class Step:
    """A step of a build.

    :ivar kind: an instruction of a Dockerfile
    :ivar files: for ``COPY``: the hash of the archive that contains its sources
    """

    kind: str
    args: list[str]
    files: str = ""


@dataclass(frozen=True)
class Plan:
    """A validated build request; it starts from an image or a template.

    :ivar start: a command that is running in the background when the template is saved
    :ivar ready: a command that succeeds once the template can be saved
    """

    image: str
    template: str
    steps: list[Step]
    start: str
    ready: str


_COUNTS = {"RUN": (1, 2), "COPY": (2, 4), "WORKDIR": (1, 1), "USER": (1, 1), "ENV": (2, 1 << 16)}
"""The minimum and maximum number of arguments of each kind."""


def plan_of(body: dict[str, Any]) -> Plan:
    """Validate the body of a request.

    :raises ClientError: it is no valid build request
    """
    if body.get("fromImageRegistry"):
        raise not_there("an image of a registry with credentials")
    image, template = (bodies.take(body, name, str, "") for name in ("fromImage", "fromTemplate"))
    if bool(image) == bool(template):
        raise ClientError(400, "specify exactly one of fromImage and fromTemplate")
    steps = bodies.take(body, "steps", list, [])
    if len(steps) > MOST_STEPS:
        raise ClientError(400, f"{len(steps)} steps are more than {MOST_STEPS}")
    start, ready = (bodies.take(body, name, str, "") for name in ("startCmd", "readyCmd"))
    if "\0" in start + ready:
        raise ClientError(400, "a command has a NUL character")
    return Plan(image, template, [_step(each) for each in steps], start, ready)


def _step(found: Any) -> Step:
    if not isinstance(found, dict):
        raise ClientError(400, "a step is not a JSON object")
    kind = bodies.take(found, "type", str).upper()
    args = bodies.take(found, "args", list, [])
    if kind not in _COUNTS:
        raise not_there(f"the step {kind[:40]!r}")
    least, most = _COUNTS[kind]
    if not (least <= len(args) <= most and all(isinstance(each, str) and "\0" not in each for each in args)):
        raise ClientError(400, f"args of {kind} are not {least} to {most} strings without NUL characters")
    if kind == "ENV" and (len(args) % 2 or not all(name and "=" not in name for name in args[::2])):
        raise ClientError(400, "args of ENV are not names and values")
    files = bodies.take(found, "filesHash", str, "")
    if kind == "COPY" and not files:
        raise ClientError(400, "filesHash of COPY is missing")
    if kind == "COPY" and "**" in args[0]:
        raise not_there("COPY of a pattern with **")
    return Step(kind, args, files)


@dataclass
class Worker:
    """Executes steps in a sandbox.  All methods block.

    :ivar archive: returns the path of an archive with a given hash, or an empty string
    :ivar log: receives each line of output and its level
    :ivar deadline: of the whole build, on the monotonic clock
    :ivar user: runs the following commands; empty: the default user
    :ivar workdir: of the following commands; empty: the user's home
    """

    box: Sandbox
    archive: Callable[[str], str]
    log: Callable[[str, str], None]
    deadline: float
    user: str = ""
    workdir: str = ""
    envs: dict[str, str] = field(default_factory=dict)
    _running: Command | None = None

    def stop(self) -> None:
        """Kill the running command; the build fails."""
        self.deadline = 0
        if self._running is not None:
            self._running.kill()

    def do(self, step: Step) -> None:
        """Execute a step.

        :raises BuildError: the step failed
        """
        steps = {"RUN": self._run, "COPY": self._copy, "WORKDIR": self._workdir, "USER": self._user, "ENV": self._env}
        steps[step.kind](step)

    def start(self, command: str) -> None:
        """Start a command in the background.

        :raises BuildError: the command cannot be started
        """
        self._check(self._shell(_IN_BACKGROUND, command, self._find(self.user)), command)

    def wait(self, ready: str) -> None:
        """Repeat a command until it succeeds.

        :raises BuildError: the build's deadline has passed
        """
        if port := _PORT.fullmatch(ready):  # many images have no ss
            ready = _LISTENS.format(int(port[1] or port[2]))
        user = self._find(self.user)
        while self._shell(_COMMAND, ready, user, quiet=True).exit_code:
            time.sleep(min(_POLL_S, self._left()))  # only another try shows whether it is ready

    # -- steps -------------------------------------------------------------------------------------------------------

    def _run(self, step: Step) -> None:
        user = self._find(step.args[1] if len(step.args) > 1 and step.args[1] else self.user)
        self._check(self._shell(_COMMAND, step.args[0], user), step.args[0])

    def _workdir(self, step: Step) -> None:
        user = self._find(self.user)
        self.workdir = user.path(step.args[0])
        self._check(self._as_root(_WORKDIR, self.workdir, user.ids), f"WORKDIR {step.args[0]}")

    def _user(self, step: Step) -> None:
        self._find(step.args[0])
        self.user = step.args[0]

    def _env(self, step: Step) -> None:
        self.envs |= zip(step.args[::2], step.args[1::2], strict=True)

    def _copy(self, step: Step) -> None:
        source, target, user, mode = [*step.args, "", ""][:4]
        if mode and not re.fullmatch("[0-7]{1,4}", mode):
            raise BuildError(f"the mode {mode[:80]!r} is not octal")
        path = self.archive(step.files)
        if not path:
            raise BuildError(f"the files of {source!r} are not on this server (any more); build again")
        owner = self._find(user or self.user)
        dest = self._find(self.user).path(target)
        if target.endswith("/") or posixpath.basename(target) in (".", ".."):
            dest = dest.rstrip("/") + "/"
        source = posixpath.normpath(source)
        with open(path, "rb") as file:
            # Pages of a file can be dropped, unlike a copy of it.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        unpack = "-xz" if content[:2] == b"\x1f\x8b" else "-x"
        head, _, name = source.rpartition("/")
        # Unlike those of the shell, patterns of the client match names that begin with a dot.
        hidden = posixpath.join(head, f".{name if name[0] == '*' else name[1:]}") if name[:1] in ("*", "?") else ""
        words = [unpack, source, hidden, dest, owner.ids, mode]
        self._check(self._as_root(_COPY, *words, stdin=cast(bytes, memoryview(content))), f"COPY {source} {target}")

    # -- commands ----------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> User:
        """Look a user up; earlier steps may have changed the user database."""
        try:
            return Users(self.box).find(name or DEFAULT)._replace(workdir=self.workdir)
        except ClientError as error:
            raise BuildError(error.message) from error

    def _shell(self, script: str, command: str, user: User, *, quiet: bool = False) -> Result:
        words = ["/bin/sh", "-c", script, "sh", user.path(""), command]
        return self._command(words, user, quiet=quiet)

    def _as_root(self, script: str, *words: str, stdin: bytes = b"") -> Result:
        return self._command(["/bin/sh", "-c", script, "sh", *words], User("root", "0:0", "/root"), stdin=stdin)

    def _command(self, words: list[str], user: User, *, quiet: bool = False, stdin: bytes = b"") -> Result:
        out, err = _Lines(self.log, "info"), _Lines(self.log, "warn")
        try:
            with self.box.popen(words, env={**user.environment, **self.envs}, user=user.ids) as self._running:
                done = finish(
                    self._running,
                    words,
                    timeout=self._left(),
                    stdin=stdin,
                    on_stdout=None if quiet else out.add,
                    on_stderr=None if quiet else err.add,
                    max_output=_LONGEST_LINE,
                )
        except CommandTimeout as error:
            raise BuildError("the time of the build is over") from error
        out.end()
        err.end()
        return done

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise BuildError("the time of the build is over")
        return left

    def _check(self, done: Result, what: str) -> None:
        if done.exit_code:
            words = done.stderr.strip()[-300:]
            why = f"exit status {done.exit_code}{f': {words}' if words else ''}"
            raise BuildError(f"failed to run {what[:200]!r}: {why}")


class _Lines:
    """Splits output into lines for the log."""

    def __init__(self, log: Callable[[str, str], None], level: str) -> None:
        self._log = log
        self._level = level
        self._rest = ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._log(line[:_LONGEST_LINE], self._level)
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        if self._rest:
            self._log(self._rest[:_LONGEST_LINE], self._level)
        self._rest = ""
