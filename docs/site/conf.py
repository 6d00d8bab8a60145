"""Settings of Sphinx for the documentation site; build_site.py passes the folder with the pages.

Why Sphinx with MyST and furo:

- MyST reads CommonMark, as GitHub does, so the pages look the same in both places. MkDocs uses Python-Markdown, which
  needs four spaces before a nested list, blank lines before lists, and no words after the language of a fence.
- autodoc imports the packages and reads the objects that a user gets, also through the lazy stubs (`__init__.pyi`).
  mkdocstrings reads sources, and would document the stubs' modules. napoleon reads our Google-style docstrings.
- The search index is a script, so search works from file://. Nothing is loaded from elsewhere: furo uses the fonts of
  the system and inline icons.
- Sphinx and furo are maintained. MkDocs 1 gets no more releases, and Material for MkDocs calls itself inactive.
"""

import importlib.metadata

project = "SkyRL losses"
version = release = importlib.metadata.version("skyrl-core")
copyright = "the SkyRL losses authors, Apache 2.0"
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 6
myst_links_external_new_tab = False
default_role = "code"
smartquotes = False  # options start with two hyphens
suppress_warnings = ["misc.highlighting_failure"]  # examples contain `...` where JSON or YAML has more lines

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config, model_post_init, Params"}
maximum_signature_line_length = 80
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"SkyRL losses {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
