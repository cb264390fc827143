"""Documentation: `make docs` builds it, a test builds it with warnings as errors."""

import os
import re
import sys
from pathlib import Path

from mfgjax import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "mfgjax"
author = "the mfgjax authors"
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "pages_from_code",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mfgjax"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# The notebooks take minutes: `make docs` runs them for their pictures, the tests run them elsewhere.
nb_execution_mode = os.environ.get("MFGJAX_DOCS_NOTEBOOKS", "off")
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def escape_star_axes(app, what, name, obj, options, lines):
    """`Float[Array, "*batch"]` is a shape, not the start of emphasis."""
    lines[:] = [re.sub(r"\*(?=[a-z]+)", r"\\*", x) if ":type:" in x else x for x in lines]


def skip_tuple_fields(app, what, name, obj, skip, options):
    """Fields of a NamedTuple are under its Attributes already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-process-docstring", escape_star_axes, priority=900)
    app.connect("autodoc-skip-member", skip_tuple_fields)
