"""Tables of a report as text, Markdown and HTML; names in them are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jsplit.core import html as written
from jsplit.privacy.reporting.records import Finding
from jsplit.privacy.reporting.tables import LEGEND, Table

TITLE = "What training gives away"
_SMALL = "width:64px;image-rendering:pixelated;margin:2px"
_READ = "How to read this"


def text(found: Sequence[Table]) -> str:
    """Tables as text of a terminal.

    Args:
        found: the tables.
    """
    lines: list[str] = [TITLE, ""]
    for t in found:
        cells = [[_one_line(c) for c in row] for row in t.rows]
        widths = [max(map(len, column)) for column in zip(t.heads, *cells, strict=True)]
        lines += [t.title, "-" * len(t.title)]
        for row in (t.heads, *cells):
            padded = [c.ljust(w) for c, w in zip(row, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
        lines += [t.note, ""] if t.note else [""]
    return "\n".join([*lines, _READ, *(f"- {x}" for x in LEGEND)])


def markdown(found: Sequence[Table], pictures: Sequence[tuple[str, Finding]]) -> str:
    """Tables as Markdown.

    Args:
        found: the tables.
        pictures: findings with pictures, and their titles.
    """
    lines = [f"# {TITLE}", ""]
    for t in found:
        lines += [f"## {t.title}", "", _row([_escaped(h) for h in t.heads])]
        lines.append(_row(["---"] * len(t.heads)))
        lines += [_row([_escaped(c) for c in row]) for row in t.rows]
        lines += ["", t.note, ""] if t.note else [""]
    for title, f in pictures:
        lines += [f"## {_escaped(title)}", ""]
        for p in f.pictures:
            pair = (("original", p.original), ("reconstruction", p.reconstruction))
            images = " ".join(f"![{n}](data:image/png;base64,{x})" for n, x in pair)
            lines += [f"{images} MSE {p.error:.3g}", ""]
    return "\n".join([*lines, f"## {_READ}", "", *(f"- {x}" for x in LEGEND)])


def html(found: Sequence[Table], pictures: Sequence[tuple[str, Finding]]) -> str:
    """Tables as one page of HTML that needs nothing else.

    Args:
        found: the tables.
        pictures: findings with pictures, and their titles.
    """
    return written.page_of(TITLE, cell(found, pictures))


def cell(found: Sequence[Table], pictures: Sequence[tuple[str, Finding]]) -> str:
    """The same for a cell of a notebook, or within a page.

    Args:
        found: the tables.
        pictures: findings with pictures, and their titles.
    """
    parts: list[str] = []
    for t in found:
        words = range(len(t.heads))
        table = written.Table(t.heads, t.rows, t.title, words=words)
        parts.append(written.html_of([table], t.note))
    for title, f in pictures:
        parts.append(f"<div><strong>{escape(title)}</strong></div>")
        for p in f.pictures:
            pair = _image(p.original), _image(p.reconstruction)
            parts.append(f"<div>{''.join(pair)} MSE {p.error:.3g}</div>")
    return "".join([*parts, written.list_of(_READ, LEGEND)])


def _image(data: str) -> str:
    # A report may have been read from a file of somebody else's.
    return f"<img style='{_SMALL}' src='data:image/png;base64,{escape(data)}'>"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(cell: str) -> str:
    """A cell in which no name draws a table, a link or a tag."""
    # Within backticks nothing can be escaped.
    found = _one_line(cell).replace("`", "'").replace("\\", "\\\\")
    for mark in "|[]*_#":
        found = found.replace(mark, f"\\{mark}")
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(cell: str) -> str:
    return " ".join(cell.split())
