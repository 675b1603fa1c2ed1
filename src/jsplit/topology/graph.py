"""Who computes what, who holds what, and therefore what crosses: a topology is data.

Nodes name the values they read, so what crosses between parties follows and is never written down.
Everything is checked when a topology is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from jsplit.core.checks import topological_order
from jsplit.topology.nodes import OWN, Loss, Node, as_names


class Crossing(NamedTuple):
    """A value that goes from the party that makes it to another, and, if `returns`, its cotangent back."""

    name: str
    sender: str
    receiver: str
    returns: bool


@dataclass(frozen=True)
class Topology:
    """Segments at parties, the fields they hold, and the losses. Frozen, hashable, valid once built.

    Args:
        nodes: `Node` and `Loss`, in any order.
        holds: the data fields of each party. Labels are fields like any other.

    Raises:
        ValueError: naming the culprit, if a name is taken twice; an input is no field and no value; a field is read by a
            party that does not hold it; a loss cannot be computed; nodes read each other in a circle.
    """

    nodes: Sequence[Node | Loss]
    holds: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if not isinstance(self.holds, Mapping):
            raise ValueError(
                f"`holds` must be a dictionary of fields by party, got {type(self.holds).__name__}."
            )
        if not isinstance(self.nodes, Iterable):
            raise ValueError(
                f"`nodes` must be a list, got {type(self.nodes).__name__}."
            )
        held = {
            party: as_names(f"party `{party}`", fields, "holds")
            for party, fields in self.holds.items()
        }
        object.__setattr__(self, "holds", MappingProxyType(held))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        _validate(self)

    def __reduce__(self) -> tuple:
        return Topology, (self.nodes, dict(self.holds))

    def __hash__(self) -> int:
        return hash((self.nodes, tuple(sorted(self.holds.items()))))

    def add(self, *nodes: Node | Loss) -> Topology:
        """The same topology with further nodes, losses or penalties."""
        return replace(self, nodes=(*self.nodes, *nodes))

    @cached_property
    def segments(self) -> tuple[Node, ...]:
        """The nodes that compute values, each after those that it reads."""
        nodes = {n.name: n for n in self.nodes if isinstance(n, Node)}
        return tuple(
            nodes[name]
            for name in topological_order(
                {name: n.reads for name, n in nodes.items()}, "the nodes"
            )
        )

    @cached_property
    def losses(self) -> tuple[Loss, ...]:
        return tuple(n for n in self.nodes if isinstance(n, Loss))

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """Every party, in the order of its first part in a step."""
        return tuple(
            dict.fromkeys(
                [n.party for n in (*self.segments, *self.losses)] + list(self.holds)
            )
        )

    @cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f for fields in self.holds.values() for f in fields))

    @cached_property
    def node(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return MappingProxyType({n.name: n for n in self.segments})

    @cached_property
    def depends_on_params(self) -> frozenset[str]:
        """Values that depend on some parameter, so that a cotangent for them is worth computing."""
        found: set[str] = set()
        for n in self.segments:
            if n.segment.trainable or any(i in found for i in n.differentiable_inputs):
                found.add(n.name)
        return frozenset(found)

    @cached_property
    def on_loss_path(self) -> frozenset[str]:
        """Values that some loss pulls on, other than through parameters it reads itself."""
        found = {
            i.removesuffix(".state") if i not in self.node else i
            for x in self.losses
            for i in x.differentiable_inputs
        } & self.node.keys()
        for n in reversed(self.segments):
            if n.name in found:
                found.update(i for i in n.differentiable_inputs if i in self.node)
        return frozenset(found)

    trained = property(lambda self: self.depends_on_params)  # the name until 0.1
    objective = property(lambda self: self.on_loss_path)  # the name until 0.1

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """Every crossing of a training step, in order."""
        found = {}
        for n in (*self.segments, *self.losses):
            for i in n.reads:
                if i in self.node and self.node[i].party != n.party:
                    useful = isinstance(n, Loss) or n.name in self.on_loss_path
                    back = (
                        i in self.depends_on_params
                        and i in n.differentiable_inputs
                        and useful
                    )
                    key = (i, self.node[i].party, n.party)
                    found[key] = found.get(key, False) or back
        order = [n.name for n in self.segments]
        crossings = [Crossing(*ends, returns=back) for ends, back in found.items()]
        return tuple(sorted(crossings, key=lambda c: order.index(c.name)))

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        """The nodes that no other node reads: what `predict` returns."""
        read = {i for n in self.segments for i in n.reads}
        return tuple(n.name for n in self.segments if n.name not in read)

    def __repr__(self) -> str:
        width = max(map(len, self.parties))
        rows = []
        for party in self.parties:
            has = (
                [f"holds {', '.join(self.holds[party])}"]
                if self.holds.get(party)
                else []
            )
            own = [n for n in (*self.segments, *self.losses) if n.party == party]
            has += [f"{n.name} = {type_of(n)}({', '.join(n.reads)})" for n in own]
            rows.append(f"  {party:{width}}  {'; '.join(has)}")
        for c in self.crossings:
            rows.append(
                f"  {c.name}: {c.sender} {'<->' if c.returns else '->'} {c.receiver}"
            )
        return "\n".join(["Topology", *rows])


def type_of(node: Node | Loss) -> str:
    if isinstance(node, Node):
        return "segment"
    return "metric" if not node.weight else "penalty" if node.local else "loss"


def _validate(topology: Topology) -> None:
    for n in topology.nodes:
        if not isinstance(n, (Node, Loss)):
            raise ValueError(
                f"`nodes` must hold Node and Loss, got {type(n).__name__}."
            )
    if not any(isinstance(n, Node) for n in topology.nodes):
        raise ValueError("`nodes` holds no Node: there is nothing to compute.")
    names = [n.name for n in topology.nodes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two nodes are named `{name}`.")
        if name in topology.fields:
            raise ValueError(
                f"node `{name}` has the name of a field that `{_holders(topology, name)[0]}` holds."
            )
    for what, name in [("field", f) for f in topology.fields] + [
        ("node", n) for n in names
    ]:
        base, _, own = name.rpartition(".")
        if own in OWN and base in topology.node:
            raise ValueError(
                f"the {what} `{name}` has the name of the {own} of the node `{base}`."
            )
    for node in (*topology.segments, *topology.losses):
        what = f"{'node' if isinstance(node, Node) else 'loss'} `{node.name}` at `{node.party}`"
        for i in node.reads:
            _check_input(topology, node, what, i)


def _check_input(topology: Topology, node: Node | Loss, what: str, i: str) -> None:
    base, _, own = i.rpartition(".")
    if i in topology.node:
        if (
            isinstance(node, Loss)
            and node.local
            and topology.node[i].party != node.party
        ):
            raise ValueError(
                f"penalty `{node.name}` at `{node.party}` reads `{i}`, which `{topology.node[i].party}` makes: a penalty reads "
                "only what its party has."
            )
    elif i in topology.fields:
        if i not in topology.holds.get(node.party, ()):
            owners = " and ".join(f"`{p}`" for p in _holders(topology, i))
            raise ValueError(
                f"{what} reads the field `{i}`, which only {owners} holds; raw inputs and labels do not cross."
            )
    elif isinstance(node, Loss) and own in OWN and base in topology.node:
        if topology.node[base].party != node.party:
            raise ValueError(
                f"{what} reads `{i}`, which belongs to `{topology.node[base].party}`."
            )
    elif any(i == x.name for x in topology.losses):
        raise ValueError(
            f"{what} reads `{i}`, which is a loss; losses add up and are read by no one."
        )
    else:
        known = [*topology.node, *topology.fields]
        close = get_close_matches(i, known, 2) or known
        raise ValueError(
            f"{what} reads `{i}`, which no node produces and no party holds; there are {', '.join(close)}."
        )


def _holders(topology: Topology, field: str) -> list[str]:
    return [party for party, fields in topology.holds.items() if field in fields]
