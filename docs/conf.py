"""Sphinx: `pip install -e '.[docs]' && sphinx-build docs build/docs`."""

project = "farcluss"
author = "The farcluss authors"
extensions = ["myst_parser", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "farcluss"
myst_heading_anchors = 3  # links such as method.md#limits
myst_fence_as_directive = ["math"]  # formulas are fenced blocks, which code hosts render as well
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs/
