"""The version of the installed package."""

from __future__ import annotations


def version() -> str:
    """That of the installed distribution, as ``1.2.3``; empty: it is not installed."""
    from importlib import metadata

    try:
        return metadata.version("pyvmm")
    except metadata.PackageNotFoundError:
        return ""
