"""Sphinx's settings: the chapters, executed, and the reference from the docstrings.

sphinx-build -W -c ddpm_jax/tutorial/pages ddpm_jax/tutorial OUTPUT
"""

import re
import tempfile
from typing import Any

project = "ddpm_jax"
extensions = ["sphinx.ext.autodoc", "myst_nb"]
root_doc = "pages/index"
include_patterns = ["pages/*.md", "[0-9]*.py"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1080px"}

# Reading a chapter executes it. They are read in their order, and share their runs.
runs = tempfile.TemporaryDirectory()
nb_custom_formats = {".py": ["ddpm_jax.tutorial.notebooks.executed", {"folder": runs.name}]}
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
default_role = "code"


def plain(lines: list[str]) -> list[str]:
    """Returns a docstring as reStructuredText: indented text and tables stay as they are typed."""
    found: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith(("  ", "("))
        if line.strip() and indented and not literal:
            found += ["", "::", ""]
        if line.strip():
            if literal and not indented:
                found.append("")
            literal = indented
        found.append(f"    {line}" if literal else _escaped(line))
    return found


def _escaped(line: str) -> str:
    """Escapes what reStructuredText would take for its own, outside of code."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([*|]|_(?!\w)|\\)", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def with_modules(text: str) -> str:
    """Returns a page in which each heading that names a module is followed by its docstrings."""
    heading = re.compile(r"^(### (ddpm_jax[\w.]+))$", re.MULTILINE)
    return heading.sub(r"\1\n\n```{eval-rst}\n.. automodule:: \2\n```\n", text)


def setup(app: Any) -> None:
    """Registers what turns our docstrings into pages."""

    def docstring(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
        lines[:] = plain(lines)

    def source(app: Any, name: str, content: list[str]) -> None:
        content[0] = with_modules(content[0])

    app.connect("autodoc-process-docstring", docstring)
    app.connect("source-read", source)
