"""Tables of a report as text, Markdown and HTML; names in them are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jsplit.privacy.reporting.records import Finding
from jsplit.privacy.reporting.tables import LEGEND, Table

TITLE = "What training gives away"
STYLE = (
    "body{font-family:sans-serif;margin:2em auto;max-width:80em;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}"
    "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left;vertical-align:top}"
    "th{background:#eee}img{width:64px;image-rendering:pixelated;margin:2px}"
)


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
    return "\n".join([*lines, "How to read this", *(f"- {x}" for x in LEGEND)])


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
    return "\n".join([*lines, "## How to read this", "", *(f"- {x}" for x in LEGEND)])


def html(found: Sequence[Table], pictures: Sequence[tuple[str, Finding]]) -> str:
    """Tables as one page of HTML that needs nothing else.

    Args:
        found: the tables.
        pictures: findings with pictures, and their titles.
    """
    parts: list[str] = []
    for t in found:
        head = "".join(f"<th>{escape(h)}</th>" for h in t.heads)
        rows = ["".join(f"<td>{escape(c)}</td>" for c in row) for row in t.rows]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        parts.append(f"<h2>{escape(t.title)}</h2>")
        parts.append(f"<table><tr>{head}</tr>{body}</table><p>{escape(t.note)}</p>")
    for title, f in pictures:
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append("<table><tr><th>original</th><th>reconstruction</th><th>MSE</th>")
        for p in f.pictures:
            images = (_image(x) for x in (p.original, p.reconstruction))
            cells = "".join(f"<td>{x}</td>" for x in (*images, f"{p.error:.3g}"))
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table>")
    read = "".join(f"<li>{escape(x)}</li>" for x in LEGEND)
    return (
        f"<!doctype html><html><head><meta charset='utf-8'><title>{TITLE}</title>"
        f"<style>{STYLE}</style></head><body><h1>{TITLE}</h1>{''.join(parts)}"
        f"<h2>How to read this</h2><ul>{read}</ul></body></html>"
    )


def _image(data: str) -> str:
    # A report may have been read from a file of somebody else's.
    return f"<img src='data:image/png;base64,{escape(data)}'>"


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
