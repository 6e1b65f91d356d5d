"""The exit statuses that errors have."""

from __future__ import annotations

from vmm.errors import ConfigError, GuestError, VmmError

EXIT_HOST, EXIT_CONFIG, EXIT_GUEST_ERROR = 1, 2, 19


def exit_status(error: VmmError) -> int:
    """The exit status that belongs to *error*."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    return EXIT_GUEST_ERROR if isinstance(error, GuestError) else EXIT_HOST
