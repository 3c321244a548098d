"""How Sphinx builds the site. tools/build_site.py collects the pages and calls it.

Nothing may be fetched from another machine, neither while building nor while reading: tests/test_site.py looks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # course_site.py, beside this file

project = "Neural network outputs"
author = "The authors of Neural Network Outputs"
copyright = "The authors of Neural Network Outputs. Text and figures: CC BY 4.0. Code: MIT"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "course_site"]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]

# The notebooks are shown with their recorded outputs. A stored widget would load its script from two other machines.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "course_site.heading_anchor"
myst_update_mathjax = False
html_math_renderer = "mathml"

# Docstrings: Google's sections, and `code` in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autosummary_generate = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is set
html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "show_prev_next": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc", "run-it"], "notebooks/cheatsheet": []},  # a wide table
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {name: [] for name in ("index", "notebooks/error_index", "notebooks/glossary", "notebooks/cheatsheet")}
