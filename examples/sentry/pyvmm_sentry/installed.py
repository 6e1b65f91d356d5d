"""The Sentry's programs in an installation, which setup.py has built. This module imports nothing, since every start of
a container needs it."""

from __future__ import annotations

import os

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "built")
"""A checkout does not have this folder."""


def program(name: str) -> str:
    """The path of an installed program; empty: this is a checkout, which compiles it."""
    path = os.path.join(FOLDER, name)
    return path if os.path.exists(path) else ""
