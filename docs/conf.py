"""Settings of Sphinx; `make docs` builds the pages into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

from delia_data import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "delia_data"
author = "the delia_data authors"
version = release = __version__
html_title = f"delia_data {__version__}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "commands",
    "docstrings",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Docstrings have single backticks around code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# The type of a field would appear twice: in the docstring and in the attribute.
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {"footer_icons": []}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
