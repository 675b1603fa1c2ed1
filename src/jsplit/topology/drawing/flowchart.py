"""A topology as the text of a Mermaid flowchart."""

from __future__ import annotations

from jsplit.topology.drawing.scene import Item, ItemKind, Wire, sketch, tidy
from jsplit.topology.graph import Topology

_SHAPES = {
    ItemKind.DATA: ('[("', '")]'),  # cylinder
    ItemKind.LABELS: ('[/"', '"/]'),  # parallelogram
    ItemKind.SEGMENT: ('["', '"]'),  # box
    ItemKind.LOSS: ('(["', '"])'),  # stadium
    ItemKind.METRIC: ('(["', '"])'),
    ItemKind.PENALTY: ('{{"', '"}}'),  # hexagon
    ItemKind.FORK: ('(("', '"))'),  # circle
}
_RED = "#C0311A"


def mermaid(topology: Topology) -> str:
    """A Mermaid flowchart of who holds what, who computes what, and what crosses.

    One subgraph per party; cylinders are data, parallelograms labels, boxes
    segments, stadiums losses and metrics, hexagons penalties. A crossing is
    one solid arrow with the value's name and, if it returns, one dotted
    arrow back; a value that several nodes of its receiver read arrives
    once, at a circle.

    Args:
        topology: Any topology.

    Returns:
        The text of a Mermaid block, the same whenever the topology is.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figures 2 and 4.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda x: x)
        >>> print(jsplit.mermaid(jsplit.vanilla(part, part, loss=max)))
        flowchart LR
          subgraph p0["client"]
            n0[("x")]
            n1["smashed"]
          end
          subgraph p1["server"]
            n2[/"label"/]
            n3["output"]
            n4(["loss"])
          end
          n1 -->|"smashed"| n3
          n0 --> n1
          n3 --> n4
          n2 --> n4
        <BLANKLINE>
    """
    items, wires = sketch(topology)
    # Names may hold anything, so they are labels only; what arrows refer to is numbered.
    number = {item: f"n{i}" for i, item in enumerate(items)}
    lines = ["flowchart LR"]
    for p, party in enumerate(topology.parties):
        lines.append(f'  subgraph p{p}["{_quoted(party)}"]')
        lines += [_node(x, number[x]) for x in items if x.party == party]
        lines.append("  end")
    return "\n".join([*lines, *_arrows(wires, number)]) + "\n"


def _node(item: Item, number: str) -> str:
    opening, closing = _SHAPES[item.kind]
    return f"    {number}{opening}{_quoted(item.name)}{closing}"


def _arrows(wires: list[Wire], number: dict[Item, str]) -> list[str]:
    arrows: list[str] = []
    back: list[str] = []
    for w in wires:
        source, target = number[w.source], number[w.target]
        name = _quoted(w.name)
        label = f'|"{name}"|' if name else ""
        arrows.append(f"  {source} -->{label} {target}")
        if w.returns:
            # Mermaid styles links by their place in the text, from 0 on.
            back.append(str(len(arrows)))
            arrows.append(f'  {target} -.->|"cotangent of {name}"| {source}')
    if back:
        arrows.append(f"  linkStyle {','.join(back)} stroke:{_RED}")
    return arrows


def _quoted(name: str) -> str:
    """A name as it may stand between quotes in Mermaid.

    Character codes stand for all but letters, digits, and marks amid them:
    Mermaid takes quotes, brackets, Markdown and its own keywords within a
    label for syntax.
    """
    text = tidy(name)
    found = []
    for i, c in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        amid = before.isalnum() and after.isalnum()
        safe = c.isalnum() or c == " " or (c in "_-." and amid)
        found.append(c if safe else f"#{ord(c)};")
    return "".join(found)
