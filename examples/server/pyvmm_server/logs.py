"""The server's log: a JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
from typing import Any


class Lines(logging.Formatter):
    """Formats a record."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if sandbox := getattr(record, "sandbox", ""):
            found["sandbox"] = sandbox
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "pyvmm_server.logs.Lines"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "opentelemetry": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "pyvmm_sandbox": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "pyvmm_server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
"""For :func:`logging.config.dictConfig`."""
