"""Saved sandboxes, to start copies of."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata import Container
from pyvmm_sandbox import isolations, kept_image, owners, records
from pyvmm_sandbox.commands import Result
from pyvmm_sandbox.errors import SandboxError, UsageError
from pyvmm_sandbox.image_version import version_of
from pyvmm_sandbox.sandbox import Sandbox, adopt, check_name
from vmm import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECKPOINT, BUNDLE, RECORD, SAVED = "checkpoint", "bundle", "template.json", "saved-"
_POLL_S = 0.1


class Template:
    """A sandbox that was saved with its memory and files.

    :param folder: where it is
    :raises UsageError: there is no template
    :ivar folder: likewise
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.path.abspath(folder)
        try:
            with open(os.path.join(self.folder, RECORD), encoding="utf-8") as file:
                self.record: dict[str, Any] = json.load(file)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder} is no template: {error}", hint="Template.build() makes one") from error

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        image: str,
        *,
        setup: Sequence[str | Sequence[str]] = (),
        start: str | Sequence[str] = "",
        ready: str | Sequence[str] = "",
        ready_timeout: float = 60,
        **options: Any,
    ) -> Template:
        """Start a sandbox, prepare it, and save it.

        :param folder: replaces the template that is there
        :param setup: commands that run one after the other; the first that fails ends the build
        :param start: a command that runs in the background in each copy: a server
        :param ready: a command that succeeds when the copy is usable; it is tried until then
        :param ready_timeout: seconds until it has to succeed
        :param options: of :class:`Sandbox`
        :raises CommandFailed: a command of *setup* failed
        :raises SandboxError: it was not ready in time
        """
        isolation = isolations.choose(options.pop("isolation", "auto"))
        version = version_of(image)
        with Sandbox(image, **{"timeout": None, **options, "isolation": isolation}) as box:
            for command in setup:
                box.run(command, timeout=None, check=True)
            if start:
                words = start if isinstance(start, str) else shlex.join(start)
                box.run(f"({words}) >/dev/null 2>&1 </dev/null &", check=True)
            if ready:
                _wait_until_ready(box, ready, ready_timeout)
            build = {"setup": list(setup), "start": start, "ready": ready, "ready_timeout": ready_timeout, **options}
            return save(box, folder, {"image": image, "version": version or version_of(image), "build": build})

    @property
    def is_current(self) -> bool:
        """The image that it was built from is still the one of that name.  A snapshot is always current."""
        return not self.record.get("version") or version_of(self.record["image"]) == self.record["version"]

    def rebuild(self) -> Template:
        """Build it once more, with the arguments of :meth:`build`, from what its image's name leads to now.

        :raises UsageError: it is the snapshot of a sandbox
        """
        if "build" not in self.record:
            raise UsageError(f"{self.folder} is a snapshot", hint="only Template.build() can be repeated")
        return Template.build(self.folder, self.record["image"], **self.record["build"])

    def start(
        self,
        *,
        timeout: float | None = 300,
        name: str = "",
        detach: bool = False,
        metadata: Mapping[str, str] | None = None,
        config: str = "",
        root: str = "",
    ) -> Sandbox:
        """A running copy, in a machine of its own; see :class:`Sandbox` for the arguments.

        :raises VmmError: it cannot be started; nothing of it is left
        """
        check_name(name, detach)
        record = records.new(self.record.get("image") or self.folder, metadata, detach)
        owners.watch(root)
        saved = os.path.join(self.folder, self.record["saved"])
        bundle = tempfile.mkdtemp(prefix=owners.BUNDLE)
        try:
            _copy(os.path.join(saved, BUNDLE), bundle)
            checkpoint = os.path.join(saved, CHECKPOINT)
            name = name or owners.new_name()
            with kept_image.in_use(saved, bundle):
                container = Container.restore(checkpoint, bundle, name=name, config=config, root=root)
        except BaseException:
            shutil.rmtree(bundle, ignore_errors=True)
            raise
        box = adopt(container, record, timeout, root)
        if self.record.get("suspended"):
            try:
                box.resume()
            except BaseException:
                box.kill()
                raise
        return box


def save(box: Sandbox, folder: str | os.PathLike[str], record: dict[str, Any]) -> Template:
    """Save a running sandbox, which continues.

    The record names the folder with the data, and is replaced last: a template is the old or the new one.

    :param folder: the template that is there is replaced
    :raises VmmError: it cannot be saved
    """
    final = os.path.abspath(folder)
    if os.path.lexists(final) and not os.path.exists(os.path.join(final, RECORD)):
        raise UsageError(f"{folder} exists and is no template", hint="name a new folder")
    os.makedirs(final, exist_ok=True)
    made = tempfile.mkdtemp(prefix=SAVED, dir=final)
    try:
        os.mkdir(os.path.join(made, BUNDLE), 0o700)
        box.checkpoint(os.path.join(made, CHECKPOINT), os.path.join(made, BUNDLE))
        kept_image.keep(made, os.path.join(made, BUNDLE))
        with open(os.path.join(made, RECORD), "w", encoding="utf-8") as file:
            json.dump({**record, "saved": os.path.basename(made), "created": time.time()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, os.path.join(final, RECORD))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(final)  # unless a template is there
        raise
    for name in os.listdir(final):
        if name.startswith(SAVED) and name != os.path.basename(made):
            shutil.rmtree(os.path.join(final, name), ignore_errors=True)
    return Template(final)


def _copy(source: str, target: str) -> None:
    """Of a directory's content, with owners, attributes and device nodes."""
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", "--", f"{source}/.", target], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise HostError(f"{target}: {words[0] if words else 'cp failed'}", code="template-copy")


def _wait_until_ready(box: Sandbox, ready: str | Sequence[str], limit: float) -> None:
    deadline = time.monotonic() + limit
    result = Result("", "", 0)
    while time.monotonic() < deadline:
        try:
            result = box.run(ready, timeout=max(deadline - time.monotonic(), 1))
        except TimeoutError:
            break
        if result.ok:
            return
        time.sleep(_POLL_S)  # only another try shows whether it is ready
    raise SandboxError(
        f"the sandbox was not ready after {limit:g} s: {result.stderr.strip()[-300:] or f'status {result.exit_code}'}",
        hint="raise ready_timeout=, or see what its start command prints",
    )
