"""Tables as HTML for notebooks: small, without scripts, readable on a dark page and a light one.

Whatever is in a cell is escaped, since names of parties, values and clients come from others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import NamedTuple

# No colour but the page's own, so that both kinds of page show it.
_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3em 0 .8em"
_HEAD = "text-align:{};padding:.15em .6em;border-bottom:1px solid currentColor"
_CELL = "text-align:{};padding:.15em .6em;vertical-align:top"


class Table(NamedTuple):
    """Rows of text under heads.

    Attributes:
        heads: of the columns.
        rows: a cell for each column.
        title: above it; "" for none.
        words: the columns that hold words, by their place: they stand to the left,
            and numbers to the right.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    words: Collection[int] = (0,)


def html_of(tables: Sequence[Table], *notes: str, title: str = "") -> str:
    """Tables and notes as one piece of HTML, for a cell of a notebook.

    Args:
        tables: in order.
        *notes: below them, a paragraph each; empty ones are left out.
        title: above all of them.

    Returns:
        HTML without a head, in which all that is given stands as text.
    """
    parts = [f"<div><strong>{_text(title)}</strong></div>"] if title else []
    parts += [_table(x) for x in tables if x.rows]
    parts += [f"<div>{_text(x)}</div>" for x in notes if x]
    return f"<div>{''.join(parts)}</div>"


def _table(table: Table) -> str:
    def line(tag: str, style: str, cells: Sequence[str]) -> str:
        found = ""
        for place, cell in enumerate(cells):
            side = style.format("left" if place in table.words else "right")
            found += f'<{tag} style="{side}">{_text(cell)}</{tag}>'
        return f"<tr>{found}</tr>"

    head = line("th", _HEAD, table.heads)
    body = "".join(line("td", _CELL, row) for row in table.rows)
    title = f"<caption>{_text(table.title)}</caption>" if table.title else ""
    return (
        f'<table style="{_TABLE}">{title}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _text(text: str) -> str:
    return escape(text, quote=True)
