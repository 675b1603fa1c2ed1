"""Docstrings as the site shows them: examples are highlighted, references are links.

The source says `Example:`, of which griffe makes a box of plain text, and writes references as
the documentation of optax does, `` `title <address>`_ ``. This is an extension of griffe, named
in mkdocs.yml; the source stays as it is.
"""

from __future__ import annotations

import re

import griffe


class Shown(griffe.Extension):
    """Rewrites every docstring before its sections are read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
        obj.docstring.value = re.sub(
            r"`([^`<]+?)\s*<(https?://[^>]+)>`__?",
            lambda found: f"[{' '.join(found[1].split())}]({found[2]})",
            text,
        )
