"""The documentation site: `make docs` builds it, runs the tutorials, and treats every warning as an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryomorph import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# tutorials call `cryomorph` from this environment, one thread each, in a terminal of a known width
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ |= {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}

project = "cryomorph"
author = "the cryomorph authors"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_reference",
    "mathml",
]
exclude_patterns = ["_build", "README.md"]

# Markdown and notebooks
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

# the Python API: docstrings quote code in single backticks, as Markdown does
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"cryomorph {version}"
html_static_path = ["_static"]
html_css_files = ["formulas.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
