"""What the configurations are built from: named nodes, mergers, and the checked whole.

A segment made by `split` knows its name and its inputs; for others the
arguments of a configuration give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import ParamSpec

import jax

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import names_of
from jsplit.segments.from_model import segment
from jsplit.topology.configurations.public import Held, inputs_with, send_public
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node

LossFunction = Callable[..., jax.Array]
"""`loss(output, label)`, a scalar or one number per example, [batch]."""

_P = ParamSpec("_P")


def takes_segments(configuration: Callable[_P, Topology]) -> Callable[_P, Topology]:
    """A configuration that says which segments it takes when it gets something else."""
    # The segments are the positional parameters, by the convention of the configurations.
    names = [
        name
        for name, p in signature(configuration).parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    listed = ", ".join(f"`{name}`" for name in names)
    takes = f"`{configuration.__name__}` takes {len(names)} segments, {listed}"

    @wraps(configuration)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> Topology:
        # `split` returns a dictionary, so giving it whole is the mistake to foresee.
        if args and isinstance(args[0], Mapping):
            raise ValueError(
                f"{takes}, got a dictionary; give its values, `*segments.values()`."
            )
        if len(args) > len(names):
            raise ValueError(
                f"{takes}, got {len(args)}; `multihop` takes a chain of any length."
            )
        given = dict(zip(names, args, strict=False)) | kwargs
        for name in names:
            # One that is missing is Python's own error, raised by the call below.
            if name in given:
                _check_segment(f"`{name}`", given[name])
        return configuration(*args, **kwargs)

    return checked


def _check_segment(what: str, part: object) -> None:
    if not isinstance(part, Segment):
        raise ValueError(
            f"{what} must be a segment, got a {type(part).__name__}; "
            "make one of it by jsplit.segment, or several of a whole model by "
            "jsplit.split."
        )


def make_node(
    part: Segment,
    party: str,
    inputs: str | Sequence[str] | None,
    default: str,
    public: str | Sequence[str] = (),
) -> Node:
    """A node for a segment, named and fed as the segment says, or else as given.

    Args:
        part: The segment.
        party: Who runs it.
        inputs: What it reads, unless it knows better.
        default: The node's name, unless the segment has one.
        public: Fields that a segment may read beside these.
    """
    _check_segment(f"the part of `{party}`", part)
    inputs = [inputs] if isinstance(inputs, str) else inputs
    # A slice of a whole model (they share a key) names all that it reads, which may be
    # more than the one value before it: skip connections, or fields of its own party.
    is_slice = part.shares_key and part.inputs
    if is_slice and inputs and set(inputs) <= set(part.inputs or ()):
        inputs = part.inputs
    elif inputs is not None:
        inputs = inputs_with(part, inputs, names_of("public", public))
    return Node(part.name or default, part, party, inputs)


def loss_at(party: str, loss: LossFunction, output: Node, label: str | None) -> Loss:
    """The one loss of a configuration, on its output and the labels, if it reads any."""
    return Loss("loss", loss, party, [output.name, *labels_of(label)])


def labels_of(label: str | None) -> list[str]:
    """The field of labels that a party holds, or none."""
    return [] if label is None else [label]


def client_nodes(
    bottoms: Mapping[str, Segment], fields: Mapping[str, str | Sequence[str]] | None
) -> tuple[list[Node], list[Held]]:
    """The bottoms of several clients, and what these clients hold."""
    if not bottoms:
        raise ValueError("`bottoms` is empty: at least one client is needed.")
    fields = fields or {}
    if unknown := sorted(set(fields) - set(bottoms)):
        raise ValueError(
            f"`fields` names `{unknown[0]}`, which has no bottom; "
            f"there are {sorted(bottoms)}."
        )
    nodes = [
        make_node(part, party, fields.get(party), f"smashed_{party}")
        for party, part in bottoms.items()
    ]
    return nodes, [(n.party, n.reads) for n in nodes]


def merger(
    merge: Callable[..., PyTree] | None,
    bottoms: Sequence[Node],
    party: str,
    name: str,
) -> tuple[list[Node], list[str]]:
    """The node that merges, if any, and what the next one reads."""
    names = [n.name for n in bottoms]
    if merge is None:
        return [], names
    # A node of its own, and not a part of the top: its output is one value, which a
    # drawing shows and which further nodes may read.
    return [Node(name, segment(merge, inputs=names), party, names)], [name]


def build(
    nodes: Sequence[Node | Loss],
    held: Iterable[Held],
    public: str | Sequence[str] = (),
) -> Topology:
    """The topology of a configuration, after checks that only a configuration can make.

    Args:
        nodes: In the order of the computation.
        held: By role; a party may come several times, with fields from each
            of its roles.
        public: Fields that are not secret, which go to all that read them.

    Raises:
        ValueError: If a segment reads what is computed after it, or nothing
            would cross.
    """
    nodes, held = send_public(nodes, held, public)
    parts = [n for n in nodes if isinstance(n, Node)]
    # A `Topology` may list its nodes in any order. Here the order is an argument of the
    # user's, so segments given in another order would end up at the wrong parties.
    for i, n in enumerate(parts):
        for later in parts[i:]:
            if later.name in n.reads:
                raise ValueError(
                    f"`{n.name}` at `{n.party}` reads `{later.name}`, which is "
                    "computed after it; give the segments in the order in which "
                    "they run, the client's first."
                )
    if len({n.party for n in parts}) == 1:
        raise ValueError(
            f"every segment is at `{parts[0].party}`, so nothing would cross; "
            "`client` and `server` must differ."
        )

    holds: dict[str, list[str]] = {}
    for party, fields in held:
        own = holds.setdefault(party, [])
        own.extend(f for f in fields if f not in own)
    return Topology(nodes, holds, public=names_of("public", public))
