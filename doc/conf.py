"""Sphinx configuration."""

import sklearn_samn

project = "sklearn_samn"
author = "The sklearn_samn developers"
copyright = f"2026, {author}"
version = release = sklearn_samn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build", "templates"]
templates_path = ["templates"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False}
html_show_sourcelink = False
default_role = "literal"

# The templates say which members appear.
numpydoc_show_class_members = False
# Of everything in api.rst: parameters documented and in order, returns too.
numpydoc_validation_checks = {
    "GL08",
    "PR01",
    "PR02",
    "PR03",
    "PR07",
    "RT01",
    "RT03",
    "SS01",
    "SS03",
    "YD01",
}
numpydoc_validation_exclude = {r"V2VSLS\.fit$"}  # imbalanced-learn's
