"""How Sphinx makes the API reference from docstrings: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

project = "pyvmm"
extensions = ["sphinx.ext.autodoc"]
html_theme = "alabaster"
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_class_signature = "separated"
