"""Settings of Sphinx; `build.py` calls it."""

project = "Reflexarc"
project_copyright = "Reflexarc's authors, Apache License 2.0"
extensions = ["myst_parser"]
exclude_patterns = ["examples"]

myst_heading_anchors = 4  # as git hosts make them
myst_enable_extensions = ["deflist"]
smartquotes = False  # two dashes begin a flag

html_theme = "furo"
html_title = "Reflexarc"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it fetches pages, which a site of files may not
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
