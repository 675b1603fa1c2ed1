"""Docstrings as the site shows them: examples are highlighted, references are links.

The source says `Example:`, of which griffe makes a box of plain text, and writes references as
the documentation of optax does, `` `title <address>`_ ``. This is an extension of griffe, named
in mkdocs.yml; the source stays as it is.
"""

from __future__ import annotations

import re

import griffe


def shown(said: str) -> str:
    """A docstring as its sections are to be read."""
    said = re.sub(r"^Example:$", "Examples:", said, flags=re.MULTILINE)
    return re.sub(
        r"`([^`<]+?)\s*<(https?://[^>]+)>`__?",
        lambda found: f"[{' '.join(found[1].split())}]({found[2]})",
        said,
    )


class Shown(griffe.Extension):
    """Rewrites every docstring before its sections are read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
