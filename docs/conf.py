"""How Sphinx makes the site of these pages and of the docstrings: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "kata")]

project = "pyvmm"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
html_theme = "furo"
html_title = "pyvmm"
html_show_copyright = False
html_show_sourcelink = False

myst_heading_anchors = 4  # as on GitHub: links name headings by these
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_class_signature = "separated"
