"""Views as tables of text and of HTML: a row for each party, message and set of parties."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jsplit.core.html import Table, html_of, list_of
from jsplit.privacy.viewing.records import Gives, Seen, Together
from jsplit.privacy.viewing.view import View

_Table = tuple[str, list[str], list[list[str]]]
"""Title, heads of columns, rows."""

# How what is said of a field begins that somebody gets.
_LOUD = ("is `", "gives away `", "has ")

_NOT_EXAMINED = "not looked into: give a batch"


def tables(
    views: Collection[View], together: Collection[Together], examined: bool
) -> list[_Table]:
    """The tables of all views.

    Args:
        views: of all parties.
        together: what sets of parties have.
        examined: whether messages were looked into.
    """
    rows = []
    for v in views:
        receives = ", ".join(dict.fromkeys(_short(s) for s in v.receives))
        sends = ", ".join(dict.fromkeys(_short(s) for s in v.sends))
        runs = ", ".join([*(_with_state(v, n) for n in v.runs), *v.tied])
        lists = [", ".join(v.fields), runs, ", ".join(v.losses)]
        rows.append([v.party, *lists, receives, sends])
    heads = ["party", "holds", "runs", "losses", "receives", "sends"]
    found: list[_Table] = [("What each party has", heads, rows)]

    heads = ["message", "from", "to", "numbers", "depends on", "through", "proven"]
    rows = [_message(s, examined) for v in views for s in v.sends]
    if rows:
        found.append(("What crosses, numbers of each record", heads, rows))

    rows = [_pooled(t, examined) for t in together if len(t.parties) > 1]
    if rows:
        heads = ["together", "hold", "reached by", "find out", "pass them by"]
        found.append(("What parties have together", heads, rows))
    return found


def _short(s: Seen) -> str:
    # As the derivative of a loss by a value is written.
    return f"d{s.name}" if s.kind == "cotangent" else s.name


def _with_state(v: View, node: str) -> str:
    learnt = ["parameters"] if node in v.trains else []
    learnt += ["statistics"] if node in v.statistics else []
    return f"{node} ({', '.join(learnt)})" if learnt else node


def _message(s: Seen, examined: bool) -> list[str]:
    of = [", ".join(s.fields), ", ".join(s.nodes)]
    numbers = str(s.numbers) if examined else ""
    name = f"{s.kind} {s.name}"
    # In inference there are no cotangents, so only what is not in both modes is said.
    if s.kind == "activation" and len(s.modes) == 1:
        name += f" ({s.modes[0]})"
    if s.carries and s.kind == "activation":
        name += f" carrying {', '.join(s.carries)}"
    return [name, s.sender, s.receiver, numbers, *of, proven(s, examined)]


def proven(s: Seen, examined: bool) -> str:
    """What is proven of a message, in words."""
    if not examined:
        return _NOT_EXAMINED
    found = "; ".join(map(str, s.gives))
    if s.linked and not found and s.value_gives:
        found = f"its link hides that it {'; '.join(map(str, s.value_gives))}"
    if not found and s.fields and not s.nodes and s.kind == "activation":
        found = "a fixed function of its fields, without parameters"
    if not found:
        found = "not found that it is a field"
        if s.kind == "activation" and s.enough_for:
            names = ", ".join(f"`{f}`" for f in s.enough_for)
            found += f", but as many numbers as {names} has"
    return found


def _pooled(t: Together, examined: bool) -> list[str]:
    found = "; ".join(map(_found_out, t.gives)) or "nothing proven"
    found = found if examined else _NOT_EXAMINED
    cells = ["+".join(t.parties), ", ".join(t.fields), ", ".join(t.reach), found]
    return [*cells, ", ".join(t.between_others) or "nothing"]


def _found_out(g: Gives) -> str:
    text = f"`{g.field}`" if g.whole else f"{g.entries} of {g.of} of `{g.field}`"
    text += ", rounded" if g.rounded else ""
    return text + (f" up to parameters of {', '.join(g.up_to)}" if g.up_to else "")


def text(
    views: Collection[View],
    together: Collection[Together],
    everyone: Sequence[str],
    examined: bool,
) -> str:
    """All tables, and what everyone knows, as text."""
    lines: list[str] = []
    for _, heads, rows in tables(views, together, examined):
        widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
        for row in (heads, *rows):
            cells = [c.ljust(w) for c, w in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join([*lines, "Everyone knows", *(f"  {x}" for x in everyone)])


def cell(
    views: Collection[View],
    together: Collection[Together],
    everyone: Sequence[str],
    examined: bool,
) -> str:
    """All tables, and what everyone knows, as HTML; what gives a field away is bold."""
    shown = []
    for title, heads, rows in tables(views, together, examined):
        bold = {c for row in rows for c in row if c.startswith(_LOUD)}
        shown.append(Table(heads, rows, title, words=range(len(heads)), bold=bold))
    return html_of(shown) + list_of("Everyone knows", everyone)
