"""No raw field crosses: what a node hands on to others is looked at, in both modes.

`split` proves it of the cuts of one model; here it is proven of any topology, by the same
rules (`jaxprs/rearranged.py`), once there are shapes: a segment that hands a field on as
it is, or moved, shifted or scaled, is refused unless the field is `public`, or a link
draws secret noise for it. So is one whose values can be undone, alone or with all that
crosses to the same party (`training/undone.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
from jax.extend.core import Var

from jsplit.core.base import PartyState, PyTree, Segment
from jsplit.core.link import Link
from jsplit.core.loans import params_for
from jsplit.core.trees import abstract
from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.reads import made_of
from jsplit.jaxprs.rearranged import rearranged
from jsplit.topology.crossings import Crossing
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.kinds import WireKind
from jsplit.training.undone import programs
from jsplit.training.walk import Wire


class _Leaf(NamedTuple):
    """What is known of one leaf of a value.

    Attributes:
        field: whose entries it holds, if it is known to.
        known: whether everybody has it, as a public field.
        bare: whether it is made of fields and the code alone, without parameters.
    """

    field: str | None = None
    known: bool = False
    bare: bool = False


_Fields = tuple[_Leaf, ...]
"""What is known of each leaf of a value."""

# Weakly: what was found must not keep a model alive.
_FOUND: WeakKeyDictionary[Segment, dict[Hashable, _Fields]] = WeakKeyDictionary()


def refuse_raw(
    config: Config,
    states: Mapping[str, PartyState],
    values: Mapping[str, PyTree],
) -> None:
    """Refuse a training in which a field that is not public crosses as it is.

    Args:
        config: of the training.
        states: of the parties whose segments are here.
        values: shapes of fields, and of all that nodes compute, as far as they are known.

    Raises:
        ValueError: naming the field, the value, and what to do.
    """
    topology = config.topology
    leads = _leading_to_others(topology)
    for train in (True, False):
        look = _Look(topology, states, values, train)
        found = _of_fields(topology, values)
        traced: list[str] = []
        for node in topology.segments:
            held = any(x.field or x.bare for i in node.reads for x in found.get(i, ()))
            if held and node.name in leads and node.party in states:
                found[node.name] = look.through(node, found)
                traced.append(node.name)
        for c in topology.crossings:
            _check(config, c, found.get(c.name, ()))
        _check_undone(config, look, found, traced)


def _of_fields(topology: Topology, values: Mapping[str, PyTree]) -> dict[str, _Fields]:
    """What is known of the fields themselves: those that are secret are raw."""
    found: dict[str, _Fields] = {}
    for field in topology.fields:
        if field in values:
            public = field in topology.public
            leaf = _Leaf(known=True) if public else _Leaf(field, bare=True)
            found[field] = (leaf,) * len(jax.tree.leaves(values[field]))
    return found


def _leading_to_others(topology: Topology) -> set[str]:
    """The nodes whose value crosses, or is read on the way to one that does."""
    leads = {c.name for c in topology.crossings}
    for node in reversed(topology.segments):
        if node.name in leads:
            leads.update(node.reads)
    return leads


class _Look(NamedTuple):
    """One mode of a training, of which a segment at a time is traced."""

    topology: Topology
    states: Mapping[str, PartyState]
    values: Mapping[str, PyTree]
    train: bool

    def through(self, node: Node, known: Mapping[str, _Fields]) -> _Fields:
        """Of each leaf of a node's value, the field whose entries it holds."""
        own = self.states[node.party]
        params = params_for(self.topology.loans, node.name, own.params)
        inputs = [self.values[i] for i in node.reads]
        # Shapes alone: a weight that has a value would be a constant of the code, by
        # which anybody can divide.
        given = abstract((params, own.state[node.name], own.key))
        leaves, structure = jax.tree.flatten((given, inputs))
        held = tuple(self._leaves(node.reads, known))
        at = self.train, structure, held, *((x.shape, x.dtype) for x in leaves)
        # Of many clients with the same shapes each begins anew.
        found = _FOUND.setdefault(node.segment, {})
        if at not in found:
            found[at] = self._traced(node, given, inputs, held)
        return found[at]

    def _traced(
        self, node: Node, given: PyTree, inputs: Sequence[PyTree], held: _Fields
    ) -> _Fields:
        def run(params: PyTree, state: PyTree, key: jax.Array, *inputs: PyTree):
            apply = node.segment.apply
            return apply(params, state, key, *inputs, train=self.train)[0]

        flat = flatten(jax.make_jaxpr(run)(*given, *inputs))
        last = flat.invars[len(jax.tree.leaves(given)) :]
        leaves = [*zip(last, held, strict=True)]
        raw = rearranged(flat, {v: x.field for v, x in leaves if x.field is not None})
        # All have the seed, so noise of the step's own key hides nothing.
        key = flat.invars[len(jax.tree.leaves(given)) - 1]
        known = [key, *(v for v, x in leaves if x.known)]
        bare = made_of(flat, [v for v, x in leaves if x.bare], known)
        return tuple(
            _Leaf(raw.get(v), v in flat.consts, v in bare)
            if isinstance(v, Var)
            else _Leaf(known=True)
            for v in flat.outvars
        )

    def _leaves(
        self, names: Sequence[str], known: Mapping[str, _Fields]
    ) -> list[_Leaf]:
        found: list[_Leaf] = []
        for name in names:
            nothing = (_Leaf(),) * len(jax.tree.leaves(self.values[name]))
            found += known.get(name, nothing)
        return found


def _check(config: Config, crossing: Crossing, found: Sequence[_Leaf]) -> None:
    """Refuse a crossing of which a leaf that crosses is raw to its receiver."""
    name, sender, receiver, _ = crossing
    holds = config.topology.holds.get(receiver, ())
    for i in _crossing_leaves(config, crossing, len(found)):
        field = found[i].field
        if field is not None and field not in holds:
            raise ValueError(
                f"`{name}` crosses from `{sender}` to `{receiver}` and holds the raw "
                f"field `{field}`, as it is or moved, shifted or scaled: it would leave "
                f"its owner. {_instead(sender, field)}"
            )


def _instead(sender: str, field: str) -> str:
    return (
        f"Let `{sender}` compute what learns from it, as an embedding "
        f'or the first layer; or, if it is not secret, say `public=["{field}"]` '
        "where the topology is made."
    )


def _crossing_leaves(config: Config, crossing: Crossing, count: int) -> list[int]:
    """The leaves of a value that cross as they are, or through a link that is not secret."""
    name, sender, receiver, _ = crossing
    link = config.links.get((WireKind.ACTIVATION, name))
    if link is not None and link.secret and not _is_off(link):
        return []  # noised records are what such a link is for
    wire = Wire(WireKind.ACTIVATION, name, sender, receiver)
    unread = config.passing.unread(wire) if config.passing else frozenset[int]()
    return [i for i in range(count) if i not in unread]


def _is_off(link: Link) -> bool:
    """Whether all noise of a link is of strength 0, for good."""
    fixed = [*link.strengths.values()]
    return bool(fixed) and all(isinstance(x, float | int) and x == 0 for x in fixed)


def _check_undone(
    config: Config,
    look: _Look,
    found: Mapping[str, _Fields],
    traced: Sequence[str],
) -> None:
    """Refuse crossings to a party that give it a field, each alone and all together."""
    topology = config.topology
    to: dict[str, dict[str, tuple[str, list[int]]]] = {}
    for c in topology.crossings:
        leaves = _crossing_leaves(config, c, len(found.get(c.name, ())))
        leaves = [i for i in leaves if found[c.name][i].bare]
        if leaves and c.name in traced:
            to.setdefault(c.receiver, {})[c.name] = (c.sender, leaves)
    if not to:
        return
    parts = programs(topology, look.states, look.values, traced, look.train)
    for receiver, crossing in to.items():
        sets = [[name] for name in crossing]
        for names in [*sets, [*crossing]] if len(sets) > 1 else sets:
            field = parts.told(receiver, {n: crossing[n][1] for n in names})
            if field is None:
                continue
            both = " and ".join(f"`{n}`" for n in names)
            sender = crossing[names[0]][0]
            verb = "cross" if len(names) > 1 else "crosses"
            gives = "together give" if len(names) > 1 else "gives"
            raise ValueError(
                f"{both} {verb} from `{sender}` to `{receiver}` and {gives} it the raw "
                f"field `{field}`, or entries of it: what the code computes of it can "
                f"be undone. {_instead(sender, field)}"
            )
