"""What a party made itself it reads there, where a cut would bring it back.

In a U shape the mask that goes around both cuts would come back with the second. The tail
reads that of the first, at its own party, so nobody reads what would come back, and what
nobody reads does not cross.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, Protocol

import jax

from jsplit.core.base import Cache, PyTree
from jsplit.core.handed import Handed
from jsplit.topology.crossings import Crossing
from jsplit.topology.losses import Loss
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Node

_Part = Node | Loss | Metric


class _Place(NamedTuple):
    """One value that is read elsewhere.

    Attributes:
        input: the number of the input that it is a part of.
        key: its key there.
        own: the number of the input that has it too.
        where: its key there, `""` if it is that input.
        learns: whether who made it gets its cotangent.
    """

    input: int
    key: str
    own: int
    where: str
    learns: bool


@dataclass(frozen=True)
class _Given:
    """A function of a segment that is given more inputs, and reads some values there.

    Attributes:
        run: the function.
        lead: how many arguments come before the inputs.
        count: how many inputs it has itself.
        places: what it reads elsewhere.
    """

    run: Callable[..., PyTree]
    lead: int
    count: int
    places: tuple[_Place, ...]

    def __call__(self, *args: PyTree, **kwargs: bool) -> PyTree:
        lead, given = args[: self.lead], args[self.lead :]
        inputs = [*given[: self.count]]
        # An agreement may say that it reads what came over the cut.
        for p in self.places if len(given) > self.count else ():
            value = given[p.own][p.where] if p.where else given[p.own]
            value = value if p.learns else jax.lax.stop_gradient(value)
            inputs[p.input] = {**inputs[p.input], p.key: value}
        return self.run(*lead, *inputs, **kwargs)


def reading_own(parts: Iterable[_Part]) -> tuple[_Part, ...]:
    """The parts of a topology, of which each node reads at home what its party made.

    Args:
        parts: as the user gave them; those that read so already stay as they are.
    """
    parts = tuple(parts)
    nodes = {n.name: n for n in parts if isinstance(n, Node)}
    return tuple(_reading(n, nodes) if isinstance(n, Node) else n for n in parts)


class _TopologyLike(Protocol):
    """What is asked of a topology, whose class is defined above this file."""

    @property
    def nodes(self) -> Sequence[_Part]: ...
    @cached_property
    def crossings(self) -> tuple[Crossing, ...]: ...


def carried_over(
    topology: _TopologyLike, name: str, receiver: str | None = None
) -> tuple[str, ...]:
    """The names of what is carried with a value, and crosses.

    Args:
        topology: whose.
        name: of the value.
        receiver: to which party; by default to any.
    """
    (node,) = [n for n in topology.nodes if isinstance(n, Node) and n.name == name]
    parties = [c.receiver for c in topology.crossings if c.name == name]
    parties = [p for p in parties if receiver in (None, p)]
    return tuple(
        c.name
        for c in node.segment.carried
        if any(_is_read(topology.nodes, name, c.name, p) for p in parties)
    )


def _is_read(parts: Sequence[_Part], name: str, key: str, party: str) -> bool:
    """Whether a party has a use for a part of a value, or whom it hands it on to."""
    for reader in parts:
        if name not in reader.reads or reader.party != party:
            continue
        if not isinstance(reader, Node):
            return True
        if (name, key) in _at_home(reader):
            continue
        after = [n for n in parts if reader.name in n.reads]
        as_key = _handed_on(reader, name, key, after)
        if as_key is None:
            return True
        if any(_is_read(parts, reader.name, as_key, n.party) for n in after):
            return True
    return False


def _at_home(node: Node) -> set[tuple[str, str]]:
    """What a node reads at home of what would come over a crossing: values and keys."""
    apply = node.segment.apply
    places = apply.places if isinstance(apply, _Given) else ()
    return {(node.reads[p.input], p.key) for p in places}


def _handed_on(node: Node, name: str, key: str, after: Sequence[_Part]) -> str | None:
    """As what a node hands on a part of its input with which it does nothing else."""
    cut = dict(zip(node.reads, node.segment.inputs or (), strict=False)).get(name)
    for reader in after:
        for handed in reader.segment.handed if isinstance(reader, Node) else ():
            is_of = handed.input == (node.segment.name or node.name)
            if handed.only and is_of and handed.before[0] == (cut, key):
                return handed.key
    return None


def _reading(node: Node, nodes: Mapping[str, Node]) -> Node:
    segment, names = node.segment, node.segment.inputs
    is_done = isinstance(segment.apply, _Given)
    if not segment.handed or names is None or is_done:
        return node
    # What it reads beyond its own inputs, it reads as an agreement says it does.
    own = [*node.reads[: len(names)]]
    places: list[_Place] = []
    for handed in segment.handed:
        i = names.index(handed.input)
        found = _made_by(node, own[i], handed, nodes)
        if found is not None:
            maker, where, learns = found
            own += [] if maker in own else [maker]
            places.append(_Place(i, handed.key, own.index(maker), where, learns))
    if not places:
        return node
    learned = {own[p.own] for p in places if p.learns}
    still = [i for i in own[len(names) :] if i not in learned]
    given = partial(_Given, count=len(names), places=tuple(places))
    cache = segment.cache and Cache(
        given(segment.cache.init, 2), given(segment.cache.apply, 3)
    )
    made = replace(
        segment,
        init=given(segment.init, 1),
        apply=given(segment.apply, 3),
        inputs=tuple([*names, *own[len(names) :]]),
        cache=cache,
    )
    return replace(node, segment=made, inputs=own, detached=[*node.detached, *still])


def _made_by(
    node: Node, read: str, handed: Handed, nodes: Mapping[str, Node]
) -> tuple[str, str, bool] | None:
    """Which node of a party made a value, where in its own it is, and if that learns."""
    reader = nodes.get(read)
    if reader is None or reader.party == node.party:
        return None
    learns = handed.floats and read not in node.detached
    for cut, where in handed.before:
        # By what they read, and not by name alone: nodes of two splits may have one name.
        made = [n for i in reader.reads if (n := nodes.get(i)) and _is_called(n, cut)]
        if len(made) != 1:
            return None
        learns &= made[0].name not in reader.detached
        (reader,) = made
        if reader.party == node.party:
            return reader.name, where, learns
    return None


def _is_called(node: Node, cut: str) -> bool:
    return cut == (node.segment.name or node.name)
