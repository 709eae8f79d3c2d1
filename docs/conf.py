"""Sphinx's settings. `make docs` builds the pages into build/docs, and what it would warn of is an error."""

from collections import namedtuple
from importlib.metadata import version as version_of
from typing import Any

project = "roomhub"
author = "the roomhub authors"
project_copyright = author
version = release = version_of("roomhub")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
add_module_names = False
python_use_unqualified_type_names = True

# Every name of roomhub's own that a page or a docstring refers to is one that a page explains. What is other people's
# is not looked up: building needs no network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!roomhub\b).*"),
    (r"py:.*", r"roomhub\..*\.(?:C|C_co|Kind|Key)"),  # type variables
    (r"py:.*", r"roomhub\..*\._\w+"),
]

html_theme = "furo"
html_title = f"roomhub {release}"
html_show_sphinx = False
html_copy_source = False


FIELD = type(namedtuple("_", "field").field)  # type: ignore[attr-defined]


def skip_named_tuple_fields(app: Any, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Their docstring tells of them under Attributes; autodoc finds them once more."""
    return True if isinstance(obj, FIELD) else None


def keep_colons(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Napoleon takes what precedes a colon in an attribute's first line for its type. Ours have annotations."""
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]  # an empty comment comes first, then


def indented_is_code(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """The indented parts of a module's docstring are examples and drawings."""
    if what == "module":
        marked: list[str] = []
        for before, line in zip(["", *lines], lines, strict=False):
            if line.startswith("    ") and not before and marked[-2:] != ["::", ""]:
                marked += ["::", ""]
            marked.append(line)
        lines[:] = marked


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", indented_is_code)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # napoleon has 500
    app.connect("autodoc-skip-member", skip_named_tuple_fields)
