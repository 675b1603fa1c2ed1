"""`summary`: what each party has, parameter by parameter, and what crosses, as one table.

Numbers are read from the state in hand, so they are those of the training itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax

from jsplit.core.base import Link, Message, PartyState, PyTree, TrainState
from jsplit.core.checks import as_positive_int
from jsplit.core.donation import refuse_used_up
from jsplit.core.html import Table, html_of
from jsplit.core.paths import by_path, dotted
from jsplit.core.tables import aligned, plain, si
from jsplit.core.trees import nbytes
from jsplit.costing.count_step import cost
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.topology.text import lent_in_words
from jsplit.training.configure import Optimizers

TRAINED, FROZEN, STATISTICS = "trained", "frozen", "statistics"


class SummaryRow(NamedTuple):
    """One array of a segment, or several whose paths begin alike.

    Attributes:
        party: who has it.
        segment: the node that it belongs to.
        path: where it lies in the segment's parameters or state; "" of a segment that
            has none.
        shape: of it; `None` where there are several.
        dtype: of it; where there are several, all theirs.
        numbers: how many it holds.
        bytes: how large it is.
        kind: "trained", "frozen", or "statistics"; of several, all theirs.

    Example:
        >>> from jsplit.costing import SummaryRow
        >>> row = ("client", "h", "weight", (3,), "float32", 3, 12, "trained")
        >>> SummaryRow(*row).bytes
        12
    """

    party: str
    segment: str
    path: str
    shape: tuple[int, ...] | None
    dtype: str
    numbers: int
    bytes: int
    kind: str


class PartySummary(NamedTuple):
    """What one party has, in sum.

    Attributes:
        trained: numbers that are trained.
        frozen: numbers of parameters that are not.
        statistics: numbers of BatchNorm's means and the like.
        params: bytes of all parameters.
        optimizer: bytes of its optimizer's state.
        links: bytes that its links keep.

    Example:
        >>> from jsplit.costing import PartySummary
        >>> PartySummary(3, 0, 0, 12, 24, 0).optimizer
        24
    """

    trained: int
    frozen: int
    statistics: int
    params: int
    optimizer: int
    links: int


@dataclass(frozen=True)
class Summary:
    """What each party has, and what crosses. Printing it shows tables, as a notebook does.

    Attributes:
        rows: every array, in the order of a forward pass.
        parties: by party, what it has in sum.
        messages: what crosses in a step; empty if no batch was given.
        notes: what else is to be known, as weights that are lent.

    Example:
        >>> from jsplit.costing import Summary
        >>> Summary((), {}).messages
        ()
    """

    rows: tuple[SummaryRow, ...]
    parties: Mapping[str, PartySummary]
    messages: tuple[Message, ...] = ()
    notes: tuple[str, ...] = ()

    def _tables(self) -> list[Table]:
        rows: list[list[str]] = []
        for r in self.rows:
            shape = "" if r.shape is None else str(plain(r.shape))
            size = [f"{r.numbers:,}", si(r.bytes)] if r.path else ["", ""]
            rows.append([r.party, r.segment, r.path, shape, r.dtype, r.kind, *size])
        heads = ["party", "segment", "array", "shape", "dtype", "is", "numbers"]
        found = [Table([*heads, "bytes"], rows, words=range(6))]

        columns = zip(*self.parties.values(), strict=True)
        all_of = PartySummary._make(map(sum, columns) if self.parties else [0] * 6)
        sums = {**self.parties, "all": all_of} if self.parties else {}
        of_each = [
            [name, *(f"{n:,}" for n in p[:3]), *map(si, p[3:])]
            for name, p in sums.items()
        ]
        heads = ["party", TRAINED, FROZEN, STATISTICS]
        heads += ["bytes of parameters", "optimizer", "links"]
        found.append(Table(heads, of_each))

        crossing = [
            [f"{m.kind} {m.name}", m.sender, m.receiver, str(plain(m.shape))]
            + [str(m.dtype), si(m.bytes)]
            for m in self.messages
        ]
        heads = ["crossing", "from", "to", "shape", "dtype", "bytes"]
        found.append(Table(heads, crossing, words=range(5)))
        return [x for x in found if x.rows]

    def __str__(self) -> str:
        lines: list[str] = []
        for x in self._tables():
            lines += [*aligned(x.heads, x.rows, words=x.words), ""]
        return "\n".join([*lines, *self.notes]).rstrip()

    def _repr_html_(self) -> str:
        return html_of(self._tables(), *self.notes)


def summary(
    topology: Topology,
    state: TrainState,
    batch: Mapping[str, PyTree] | None = None,
    *,
    depth: int | None = None,
    optimizer: Optimizers | None = None,
    links: Mapping[str, Link | tuple[Link | None, Link | None]] | None = None,
) -> Summary:
    """Tell by party and segment every parameter with its shape and size, and what crosses.

    Args:
        topology: Who computes what.
        state: Of its trainer, `trainer.init(key, batch)` or later. That of one party
            alone, as it has it on its own machine, is told alone.
        batch: The fields, arrays or `jax.ShapeDtypeStruct`, each [batch, ...]. With it
            the messages of one step are told with their shapes and bytes, which are
            traced and not run; without it none.
        depth: How many names of an array's path are told; arrays that then have one
            name are one row. By default all.
        optimizer: As of the trainer, where messages depend on it
            (`jsplit.clip_by_global_norm`).
        links: As of the trainer: messages are told as these send them.

    Returns:
        A `Summary`. `print` shows tables, and so does a notebook.

    Raises:
        ValueError: If the state is no `TrainState` of this topology, or `depth` is no
            positive integer.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs=["x"]
        ... )
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1, momentum=0.9))
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> print(jsplit.summary(topology, trainer.init(0, batch), batch))
        party   segment  array  shape  dtype    is       numbers  bytes
        client  smashed  value  [3]    float32  trained        3     12
        server  output
        <BLANKLINE>
        party   trained  frozen  statistics  bytes of parameters  optimizer  links
        client        3       0           0                   12         12      0
        server        0       0           0                    0          0      0
        all           3       0           0                   12         12      0
        <BLANKLINE>
        crossing            from    to      shape   dtype    bytes
        activation smashed  client  server  [4, 3]  float32     48
        cotangent smashed   server  client  [4, 3]  float32     48
    """
    if not isinstance(state, TrainState):
        raise ValueError(
            "`state` must be a jsplit.TrainState, as the `init` of a trainer gives it, "
            f"got {type(state).__name__}."
        )
    refuse_used_up(state)
    depth = None if depth is None else as_positive_int("depth", depth)
    rows: list[SummaryRow] = []
    for node in topology.segments:
        if node.party in state.parties:
            rows += _rows_of(node, state.parties[node.party], depth)
    parties = {
        p: _sum_of(topology, p, own)
        for p, own in state.parties.items()
        if p in topology.parties
    }
    if unknown := [p for p in state.parties if p not in parties]:
        raise ValueError(
            f"`state` has the party `{unknown[0]}`, which `topology` has not: there are "
            f"{', '.join(topology.parties)}."
        )
    messages: tuple[Message, ...] = ()
    if batch is not None:
        messages = cost(topology, batch, optimizer=optimizer, links=links).messages
    lent = lent_in_words(topology.loans)
    return Summary(
        tuple(rows), parties, messages, tuple(f"{n} reads {x}" for n, x in lent)
    )


class _Array(NamedTuple):
    """One array of a segment, or its shape and dtype."""

    path: tuple[Hashable, ...]
    like: jax.Array
    kind: str


def _arrays(node: Node, own: PartyState) -> list[_Array]:
    """All arrays of a segment, with what is trained of them."""
    if node.name not in own.params:
        raise ValueError(
            f"`state` of `{node.party}` has no node `{node.name}`: it is of another "
            "topology."
        )
    trains = node.segment.trains
    params, statistics = by_path(own.params[node.name]), by_path(own.state[node.name])
    found: list[_Array] = []
    for path, x in zip(params.paths, params.shapes, strict=True):
        floating = jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)
        trained = node.segment.trainable and floating
        trained = trained and (trains is None or trains(path))
        found.append(_Array(path, x, TRAINED if trained else FROZEN))
    for path, x in zip(statistics.paths, statistics.shapes, strict=True):
        found.append(_Array(path, x, STATISTICS))
    return found


def _rows_of(node: Node, own: PartyState, depth: int | None) -> list[SummaryRow]:
    """The rows of one segment; one of names alone if it has no arrays."""
    groups: dict[str, list[_Array]] = {}
    for x in _arrays(node, own):
        groups.setdefault(dotted(x.path[:depth]), []).append(x)
    rows: list[SummaryRow] = []
    for name, arrays in groups.items():
        one = arrays[0].like if len(arrays) == 1 else None
        rows.append(
            SummaryRow(
                node.party,
                node.name,
                name,
                None if one is None else tuple(one.shape),
                ", ".join(dict.fromkeys(str(x.like.dtype) for x in arrays)),
                sum(math.prod(x.like.shape) for x in arrays),
                sum(nbytes(x.like) for x in arrays),
                ", ".join(dict.fromkeys(x.kind for x in arrays)),
            )
        )
    return rows or [SummaryRow(node.party, node.name, "", None, "", 0, 0, "")]


def _sum_of(topology: Topology, party: str, own: PartyState) -> PartySummary:
    nodes = [n for n in topology.segments if n.party == party]
    arrays = [x for node in nodes for x in _arrays(node, own)]
    numbers: dict[str, int] = dict.fromkeys((TRAINED, FROZEN, STATISTICS), 0)
    for x in arrays:
        numbers[x.kind] += math.prod(x.like.shape)
    sizes = nbytes(own.params), nbytes(own.optimizer), nbytes(own.links)
    return PartySummary._make((*numbers.values(), *sizes))
