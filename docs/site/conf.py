"""Sphinx's settings. `make site` has pages.py lay out the sources first; nothing is fetched, to build it or to look at it."""

project = "Promptreel"
author = "The Promptreel authors"
copyright = "2026, The Promptreel authors"  # noqa: A001 - Sphinx's name for it

extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4  # links to headings work as on a forge
suppress_warnings = ["misc.highlighting_failure"]  # examples may leave things out: {...}

html_theme = "furo"
html_title = "Promptreel"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4ed8", "color-brand-content": "#1d4ed8"},
    "dark_css_variables": {"color-brand-primary": "#8ab4ff", "color-brand-content": "#8ab4ff"},
}
pygments_style = "friendly"
pygments_dark_style = "native"
