"""The site of these pages, by Sphinx: python -m sphinx -W docs build/site (docs/contributing.md)."""

import re
from pathlib import Path

from vit_jax import __version__

REPOSITORY = Path(__file__).parent.parent

project, author, release = "vit_jax", "the authors of vit_jax", __version__
project_copyright = f"{author}, Apache 2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
nb_execution_mode = "off"  # their outputs are kept in them
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"vit_jax {release}"
html_show_sphinx = False
html_static_path, html_css_files = ["_static"], ["site.css"]

# Docstrings are prose with `code` in backticks; types stand in the signatures.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# Pages that stand beside docs/ on GitHub and in it here.
_MOVED = {"../RECORDS.md": "records.md", "../CHANGELOG.md": "changelog.md", "../README.md": "index.md"}


def with_links(app, name, source):
    """Links out of docs/ lead to where that content is on the site; to files of the code, to nothing."""
    if "/" in name or Path(app.env.doc2path(name)).suffix == ".ipynb":
        return
    text = source[0]
    for path, page in _MOVED.items():
        text = text.replace(f"]({path}", f"]({page}")
    source[0] = re.sub(r"\[([^\[\]]+)\]\(\.\./[\w./]+\)", r"`\1`", text)


def _escaped(line):
    """Outside `code`, stars and the underscores at the end of names are themselves."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def as_prose(app, what, name, thing, options, lines):
    """Docstrings as reStructuredText: paragraphs with indented lines or columns, tables and code, stay as written."""
    found = []
    for paragraph in "\n".join(lines).split("\n\n"):
        block = paragraph.splitlines()
        if any(line.startswith(" ") or "  " in line.strip() for line in block):
            found += ["::", "", *(f"    {line}" for line in block), ""]
        else:
            found += [*map(_escaped, block), ""]
    lines[:] = found


def setup(app):
    app.connect("source-read", with_links)
    app.connect("autodoc-process-docstring", as_prose)
