"""Documentation: `make docs` builds it, a test builds it with warnings as errors."""

import gc
import inspect
import os
import re
import sys
from pathlib import Path

from mfgjax import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Trees of pages live to the end, and each full garbage collection walks them: a fifth of the build's CPU seconds.
gc.disable()

project = "mfgjax"
author = "the mfgjax authors"
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "pages_from_code",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mfgjax"
html_static_path = ["_static"]
html_css_files = ["formulas.css"]

html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# The notebooks take minutes: `make docs` runs them for their pictures, the tests run them elsewhere.
nb_execution_mode = os.environ.get("MFGJAX_DOCS_NOTEBOOKS", "off")
if nb_execution_mode != "off":  # pages of source code are a third of the work, and need no test
    extensions.append("sphinx.ext.viewcode")
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def short_types(text):
    """`Float[Array, "*batch"]`, as the code has it."""
    return text.replace("jaxlib._jax.Array", "Array").replace("jaxtyping.", "")


def tidy_types(app, what, name, obj, options, lines):
    """Short types; and a shape that starts with a star is not the start of emphasis."""
    lines[:] = [
        re.sub(r"\*(?=[a-z]+)", r"\\*", short_types(x)) if ":type:" in x else x for x in lines
    ]


def tidy_signature(app, what, name, obj, options, signature, result):
    """Short types; none for the records, whose fields are listed below with their meaning."""
    if what == "class" and obj.__doc__ and "Attributes:" in obj.__doc__:
        return "", None
    return signature and (short_types(signature), result and short_types(result))


def skip_needless(app, what, name, obj, skip, options):
    """Fields of a NamedTuple are under its Attributes already; requests of metadata are scikit-learn's.

    What a module without `__all__` imports is not shown: skipped here, it is not read first.
    """
    own = type(obj).__name__ == "_tuplegetter" or name == "set_score_request"
    module = sys.modules.get(app.env.temp_data.get("autodoc:module"))
    if what == "module" and module is not None and not hasattr(module, "__all__"):
        defined = inspect.isclass(obj) or inspect.isroutine(obj)
        own |= defined and getattr(obj, "__module__", module.__name__) != module.__name__
    return True if own else None


def setup(app):
    app.connect("autodoc-process-docstring", tidy_types, priority=900)
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("autodoc-skip-member", skip_needless)
