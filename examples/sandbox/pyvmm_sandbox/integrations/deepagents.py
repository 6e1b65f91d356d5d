"""Sandboxes as backends of LangChain's deepagents: ``create_deep_agent(backend=PyvmmSandbox(box))``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox

from pyvmm_sandbox.errors import CommandTimeout, UsageError

if TYPE_CHECKING:
    from deepagents.backends.protocol import FileOperationError

    from pyvmm_sandbox import Sandbox

TIMEOUT_STATUS = 124
"""What timeout(1) returns."""


class PyvmmSandbox(BaseSandbox):  # type: ignore[misc]  # without the framework
    """
    :param sandbox: stays the caller's, who ends it
    :param timeout: seconds for commands without a limit of their own; None: no limit
    :param max_output: characters of a command's output that an answer has
    """

    def __init__(self, sandbox: Sandbox, *, timeout: float | None = 1800, max_output: int = 1 << 20) -> None:
        self._sandbox = sandbox
        self._timeout = timeout
        self._max_output = max_output

    @property
    def id(self) -> str:
        """Its name."""
        return self._sandbox.name

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command line; its output and its errors in the order in which they come.

        :param timeout: in seconds; 0: no limit
        """
        limit = (timeout or None) if timeout is not None else self._timeout
        try:
            result = self._sandbox.run(f"exec 2>&1\n{command}", timeout=limit, max_output=self._max_output)
        except CommandTimeout as error:
            return ExecuteResponse(f"{error.result.stdout}\nkilled after {limit:g} s", TIMEOUT_STATUS, True)
        return ExecuteResponse(result.stdout + result.stderr, result.exit_code, result.truncated)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files; each can fail on its own."""
        return [FileUploadResponse(path, self._upload(path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files; each can fail on its own."""
        return [self._download(path) for path in paths]

    def _upload(self, path: str, data: bytes) -> FileOperationError | str | None:
        try:
            self._sandbox.files.write(path, data)
        except (OSError, UsageError) as error:
            return _name(error)
        return None

    def _download(self, path: str) -> FileDownloadResponse:
        try:
            return FileDownloadResponse(path, self._sandbox.files.read(path))
        except (OSError, UsageError) as error:
            return FileDownloadResponse(path, None, _name(error))


def _name(error: OSError | UsageError) -> FileOperationError | str:
    """The framework's name for an error."""
    match error:
        case UsageError():
            return "invalid_path"
        case FileNotFoundError() | NotADirectoryError():
            return "file_not_found"
        case PermissionError():
            return "permission_denied"
        case IsADirectoryError():
            return "is_directory"
    return str(error)
