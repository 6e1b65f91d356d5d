"""``%load_ext pyvmm_sandbox``: cells of a notebook that run in a sandbox."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import publish_display_data

from pyvmm_sandbox.errors import SandboxError, UsageError
from pyvmm_sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from pyvmm_sandbox.code import Bundle, CodeError


class CellError(SandboxError):
    """The code of a cell raised an exception; IPython shows the traceback of the sandbox."""

    default_code = "sandbox-cell"

    def __init__(self, error: CodeError) -> None:
        super().__init__(f"{error.name}: {error.value}")
        self.traceback = error.traceback

    def _render_traceback_(self) -> list[str]:
        return self.traceback.splitlines() or [str(self)]


@magics_class
class SandboxMagics(Magics):
    """
    :ivar box: where cells run
    :ivar options: of the next sandbox, beside those of the magic
    """

    def __init__(self, shell: InteractiveShell | None) -> None:
        super().__init__(shell)
        self.box: Sandbox | None = None
        self.options: dict[str, Any] = {}

    @magic_arguments()
    @argument("image", nargs="?", help="start a new sandbox of this image, in the place of the old one")
    @argument("--memory", default="1G", help="limit for its memory")
    @argument("--network", default="none", help="none or user")
    @argument("--sh", action="store_true", help="the cell is a shell script")
    @argument("--timeout", type=float, default=None, help="seconds until the cell is interrupted")
    @argument("--kill", action="store_true", help="end the sandbox")
    @line_cell_magic
    def sandbox(self, line: str, cell: str | None = None) -> None:
        """``%sandbox IMAGE`` starts a sandbox, and ``%%sandbox`` runs the cell in it. It keeps its state."""
        arguments = parse_argstring(self.sandbox, line)
        if arguments.image or arguments.kill:
            self.close()
        if arguments.image:
            options = {"memory": arguments.memory, "network": arguments.network, **self.options}
            self.box = Sandbox(arguments.image, timeout=None, **options)
        if cell is None:
            return
        if self.box is None:
            raise UsageError("there is no sandbox yet", hint="%sandbox IMAGE starts one")
        streams: dict[str, Any] = {"on_stdout": sys.stdout.write, "on_stderr": sys.stderr.write}
        if arguments.sh:
            self.box.run(cell, timeout=arguments.timeout, check=True, **streams)
            return
        done = self.box.run_code(cell, timeout=arguments.timeout, on_result=_show, **streams)
        if done.error is not None:
            raise CellError(done.error)

    def close(self) -> None:
        """End the sandbox."""
        if self.box is not None:
            self.box.kill()
            self.box = None


def _show(bundle: Bundle) -> None:
    publish_display_data(dict(bundle.data))


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Of ``%load_ext pyvmm_sandbox``."""
    shell.register_magics(SandboxMagics(shell))


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Of ``%unload_ext pyvmm_sandbox``."""
    found = shell.magics_manager.registry.get("SandboxMagics")
    if found is not None:
        found.close()
