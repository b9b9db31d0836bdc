"""Configuration of Sphinx. The pages load nothing from the net: equations are MathML, fonts are the system's."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import sb3_nrl

project = "sb3_nrl"
author = "the sb3_nrl authors"
release = version = sb3_nrl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds for a cell
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"
smartquotes_action = "D"  # dashes only

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # the signatures of 20 arguments are legible without them; the parameter lists say more
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
python_maximum_signature_line_length = 100
nitpicky = True
# Nothing is known of other packages' pages without the net.
nitpick_ignore_regex = [
    ("py:.*", r"(stable_baselines3|gymnasium|torch|nn|numpy|abc|typing|collections|pathlib|ABC)(\..*)?")
]

html_theme = "furo"
html_title = f"sb3_nrl {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False


def _inline_math(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block_math(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the renderer of equations, which every current browser shows without a script."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
