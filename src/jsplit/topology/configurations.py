"""The six configurations of Vepakomma et al. 2018, each a few lines over one `Topology`.

What crosses follows from who owns which segment. A segment made by `split` knows its name and its
inputs; for others the arguments here give them. A topology of one's own is as easy: write its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import ParamSpec

import jax

from jsplit.core.base import PyTree, Segment
from jsplit.segments.segment import segment
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node

_LossFunction = Callable[..., jax.Array]
P = ParamSpec("P")


def _of_segments(configuration: Callable[P, Topology]) -> Callable[P, Topology]:
    """A configuration that says which segments it takes when it gets something else."""
    names = [
        n
        for n, p in signature(configuration).parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    takes = f"`{configuration.__name__}` takes {len(names)} segments, {', '.join(f'`{n}`' for n in names)}"

    @wraps(configuration)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Topology:
        if args and isinstance(args[0], Mapping):
            raise ValueError(
                f"{takes}, got a dictionary; give its values, `*segments.values()`."
            )
        if len(args) > len(names):
            raise ValueError(
                f"{takes}, got {len(args)}; `multihop` takes a chain of any length."
            )
        for name, part in [
            *zip(names, args, strict=False),
            *((n, kwargs[n]) for n in names if n in kwargs),
        ]:
            _check_segment(f"`{name}`", part)
        return configuration(*args, **kwargs)

    return checked


def _check_segment(what: str, part: object) -> None:
    if not isinstance(part, Segment):
        raise ValueError(
            f"{what} must be a segment, got a {type(part).__name__}; make one of it by jsplit.segment, or several of a whole "
            "model by jsplit.split."
        )


@_of_segments
def vanilla(
    bottom: Segment,
    top: Segment,
    *,
    loss: _LossFunction,
    client: str = "client",
    server: str = "server",
    fields: str | Sequence[str] | None = None,
    label: str = "label",
) -> Topology:
    """The client has the data and the bottom; the server has the top, the labels and the loss.

    One activation goes up, one cotangent comes down (Vepakomma et al. 2018, Figure 2a).

    Args:
        bottom, top: segments; `top` reads what `bottom` produces.
        loss: `loss(output, label)`, a scalar or one number per example.
        client, server: names of the parties.
        fields: what `bottom` reads, by default its own names.
        label: the field with the labels.
    """
    low = node(bottom, client, fields, "smashed")
    high = node(top, server, [low.name], "output")
    return _build(
        [low, high, _loss_at(server, loss, high, label)],
        (client, low.reads),
        (server, [label]),
    )


@_of_segments
def u_shaped(
    head: Segment,
    body: Segment,
    tail: Segment,
    *,
    loss: _LossFunction,
    client: str = "client",
    server: str = "server",
    fields: str | Sequence[str] | None = None,
    label: str = "label",
) -> Topology:
    """The client has data, head, tail, labels and loss; the server has the body. Labels never leave.

    Four messages a step: two activations, two cotangents (Vepakomma et al. 2018, Figure 2b). The tail reads the
    body's output and, if it was split so, also the head's or the client's fields.

    Args:
        head, body, tail: segments, each reading what the one before produces.
        loss, client, server, fields, label: as in `vanilla`.
    """
    low = node(head, client, fields, "up")
    mid = node(body, server, [low.name], "down")
    high = node(tail, client, [mid.name], "output")
    own = [i for i in (*low.reads, *high.reads) if i not in (low.name, mid.name)]
    return _build(
        [low, mid, high, _loss_at(client, loss, high, label)],
        (client, [*own, label]),
        (server, []),
    )


def vertical(
    bottoms: Mapping[str, Segment],
    top: Segment,
    *,
    loss: _LossFunction,
    server: str = "server",
    fields: Mapping[str, str | Sequence[str]] | None = None,
    label: str = "label",
    merge: Callable[..., PyTree] | None = None,
) -> Topology:
    """K clients hold different fields of the same records, each with its own bottom; the server merges them.

    K activations go up, K cotangents come down (Vepakomma et al. 2018, Figure 2c).

    Args:
        bottoms: by client; each produces a value of its own.
        top: reads all of them in order or, with `merge`, their merger.
        merge: `merge(*values) -> value`, as a concatenation; without it `top` takes K inputs.
        fields: by client, what its bottom reads; by default its own names.
        loss, server, label: as in `vanilla`.
    """
    lows, held = _clients(bottoms, fields)
    merged, inputs = _merger(merge, lows, server, "merged")
    high = node(top, server, inputs, "output")
    return _build(
        [*lows, *merged, high, _loss_at(server, loss, high, label)],
        *held,
        (server, [label]),
    )


def extended_vanilla(
    bottoms: Mapping[str, Segment],
    middle: Segment,
    top: Segment,
    *,
    loss: _LossFunction,
    intermediary: str = "intermediary",
    server: str = "server",
    fields: Mapping[str, str | Sequence[str]] | None = None,
    label: str = "label",
    merge: Callable[..., PyTree] | None = None,
) -> Topology:
    """As `vertical`, but another client merges and runs a middle segment before the server.

    K + 1 activations go up, K + 1 cotangents come down (Vepakomma et al. 2018, Figure 4a).

    Args:
        middle: at `intermediary`; reads the bottoms' values or, with `merge`, their merger.
        top: at `server`; reads what `middle` produces.
        bottoms, loss, server, fields, label, merge: as in `vertical`.
    """
    lows, held = _clients(bottoms, fields)
    merged, inputs = _merger(merge, lows, intermediary, "merged")
    mid = node(middle, intermediary, inputs, "middle")
    high = node(top, server, [mid.name], "output")
    nodes = [*lows, *merged, mid, high, _loss_at(server, loss, high, label)]
    return _build(nodes, *held, (intermediary, []), (server, [label]))


def multitask(
    bottoms: Mapping[str, Segment],
    tops: Mapping[str, Segment],
    *,
    losses: Mapping[str, _LossFunction],
    labels: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    fields: Mapping[str, str | Sequence[str]] | None = None,
    merge: Callable[..., PyTree] | None = None,
) -> Topology:
    """As `vertical`, but to several servers, each with its own task, labels and loss.

    Every bottom's value goes to every server; the cotangents that come back add up (Vepakomma et al. 2018, Figure 4b).

    Args:
        tops: by server.
        losses: by server, `loss(output, label)`.
        labels: by server, its field of labels; by default `label_<server>`.
        weights: by server, the weight of its loss, 1 by default.
        bottoms, fields, merge: as in `vertical`; each server merges for itself.
    """
    if set(losses) != set(tops):
        raise ValueError(
            f"`losses` is for {sorted(losses)}, `tops` for {sorted(tops)}; every server needs both."
        )
    for what, given in (("labels", labels), ("weights", weights)):
        if unknown := set(given or ()) - set(tops):
            raise ValueError(
                f"`{what}` names `{sorted(unknown)[0]}`, which has no top; there are {sorted(tops)}."
            )
    lows, held = _clients(bottoms, fields)
    nodes, labels = [], {s: (labels or {}).get(s, f"label_{s}") for s in tops}
    for server, top in tops.items():
        merged, inputs = _merger(merge, lows, server, f"merged_{server}")
        high = node(top, server, inputs, f"output_{server}")
        weight = (weights or {}).get(server, 1.0)
        nodes += [
            *merged,
            high,
            Loss(
                f"loss_{server}",
                losses[server],
                server,
                [high.name, labels[server]],
                weight,
            ),
        ]
    return _build([*lows, *nodes], *held, *((s, [labels[s]]) for s in tops))


def multihop(
    segments: Mapping[str, Segment],
    *,
    loss: _LossFunction,
    fields: str | Sequence[str] | None = None,
    label: str = "label",
) -> Topology:
    """A chain of parties, as in Tor; the last is the server, with the labels and the loss.

    Each sees only its predecessor's activation and its successor's cotangent (Vepakomma et al. 2018, Figure 4c).

    Args:
        segments: by party, in the order of the chain; the first reads the fields.
        loss, fields, label: as in `vanilla`.

    Raises:
        ValueError: if there are fewer than two parties.
    """
    if len(segments) < 2:
        raise ValueError(
            f"`segments` must be a chain of at least two parties, got {list(segments)}."
        )
    (first, *others), nodes = segments.items(), []
    nodes.append(node(first[1], first[0], fields, "hop1"))
    for i, (party, each) in enumerate(others, start=2):
        nodes.append(
            node(
                each,
                party,
                [nodes[-1].name],
                f"hop{i}" if i < len(segments) else "output",
            )
        )
    server = nodes[-1].party
    held = [(first[0], nodes[0].reads), *((p, ()) for p in segments), (server, [label])]
    return _build([*nodes, _loss_at(server, loss, nodes[-1], label)], *held)


def node(
    part: Segment, party: str, inputs: str | Sequence[str] | None, default: str
) -> Node:
    """A node for a segment, named and fed as the segment says, or else as given.

    A slice of a whole model names all that it reads, which may be more than the one value before it."""
    _check_segment(f"the part of `{party}`", part)
    inputs = [inputs] if isinstance(inputs, str) else inputs
    inputs = (
        part.inputs
        if part.shares_key
        and part.inputs
        and inputs
        and set(inputs) <= set(part.inputs)
        else inputs
    )
    return Node(part.name or default, part, party, inputs)


def _loss_at(party: str, loss: _LossFunction, output: Node, label: str) -> Loss:
    return Loss("loss", loss, party, [output.name, label])


def _clients(
    bottoms: Mapping[str, Segment], fields: Mapping[str, str | Sequence[str]] | None
) -> tuple[list[Node], list]:
    if not bottoms:
        raise ValueError("`bottoms` is empty: at least one client is needed.")
    if unknown := set(fields or ()) - set(bottoms):
        raise ValueError(
            f"`fields` names `{sorted(unknown)[0]}`, which has no bottom; there are {sorted(bottoms)}."
        )
    lows = [
        node(part, party, (fields or {}).get(party), f"smashed_{party}")
        for party, part in bottoms.items()
    ]
    return lows, [(n.party, n.reads) for n in lows]


def _merger(
    merge: Callable | None, lows: Sequence[Node], party: str, name: str
) -> tuple[list[Node], list[str]]:
    """The node that merges, if any, and what the next one reads."""
    names = [n.name for n in lows]
    if merge is None:
        return [], names
    return [Node(name, segment(merge, inputs=names), party, names)], [name]


def _build(nodes: list[Node | Loss], *held: tuple[str, Sequence[str]]) -> Topology:
    """The topology; a party may come several times, with fields from each of its roles."""
    parts = [n for n in nodes if isinstance(n, Node)]
    for i, n in enumerate(parts):
        for later in parts[i:]:
            if later.name in n.reads:
                raise ValueError(
                    f"`{n.name}` at `{n.party}` reads `{later.name}`, which is computed after it; give the segments in "
                    "the order in which they run, the client's first."
                )
    if len({n.party for n in parts}) == 1:
        raise ValueError(
            f"every segment is at `{parts[0].party}`, so nothing would cross; `client` and `server` must differ."
        )
    holds: dict[str, list[str]] = {}
    for party, fields in held:
        holds.setdefault(party, []).extend(f for f in fields if f not in holds[party])
    return Topology(nodes, holds)
