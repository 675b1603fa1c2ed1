"""Tables as HTML for notebooks: small, without scripts, readable on a dark page and a light one.

Whatever is in a cell is escaped, since names of parties, values and clients come from others.
What a notebook shows has no style sheet: it would hold for the whole notebook. A page has one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import NamedTuple

# No colour but the page's own, so that both kinds of page show it.
_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3em 0 .8em"
_HEAD = "text-align:{};padding:.15em .6em;border-bottom:1px solid currentColor"
_CELL = "text-align:{};padding:.15em .6em;vertical-align:top"
_NOTE = "margin-bottom:.8em"
_TITLE = "text-align:left;font-weight:bold"

# A wide table is pushed, and not the page, which a narrow screen shows too.
_PAGE = (
    ":root{color-scheme:light dark}table{display:block;overflow-x:auto}"
    "body{font-family:sans-serif;margin:2em auto;max-width:80em;padding:0 1em}"
)


class Table(NamedTuple):
    """Rows of text under heads.

    Attributes:
        heads: of the columns.
        rows: a cell for each column.
        title: above it; "" for none.
        words: the columns that hold words, by their place: they stand to the left,
            and numbers to the right.
        bold: what the cells say that are set in bold.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    words: Collection[int] = (0,)
    bold: Collection[str] = ()


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
    parts += [f'<div style="{_NOTE}">{_text(x)}</div>' for x in notes if x]
    return f"<div>{''.join(parts)}</div>"


def list_of(title: str, items: Sequence[str]) -> str:
    """A list below its title, as one piece of HTML.

    Args:
        title: above it.
        items: a line each.

    Returns:
        HTML without a head, in which all that is given stands as text.
    """
    lines = "".join(f"<li>{_text(x)}</li>" for x in items)
    return f"<div><strong>{_text(title)}</strong><ul>{lines}</ul></div>"


def page_of(title: str, body: str) -> str:
    """A page of its own, which needs nothing else.

    Args:
        title: of the page, and its first heading.
        body: HTML without a head.

    Returns:
        HTML that is dark where the reader's browser is.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_PAGE}</style></head>"
        f"<body><h1>{_text(title)}</h1>{body}</body></html>"
    )


def _table(table: Table) -> str:
    def line(tag: str, style: str, cells: Sequence[str]) -> str:
        found = ""
        for place, cell in enumerate(cells):
            side = style.format("left" if place in table.words else "right")
            text = _text(cell)
            text = f"<strong>{text}</strong>" if cell in table.bold else text
            found += f'<{tag} style="{side}">{text}</{tag}>'
        return f"<tr>{found}</tr>"

    head = line("th", _HEAD, table.heads)
    body = "".join(line("td", _CELL, row) for row in table.rows)
    title = _text(table.title)
    title = f'<caption style="{_TITLE}">{title}</caption>' if title else ""
    return (
        f'<table style="{_TABLE}">{title}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _text(text: str) -> str:
    return escape(text, quote=True)
