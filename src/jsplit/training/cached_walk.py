"""Inference piece by piece: the walk of one call, in which segments read and leave caches.

The operations are those of `predict`, but that a segment with a cache computes by it.
In the first call of all, what a cache gives is compared with the segment without it,
and piece by piece with all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import jax

from jsplit.core.base import PartyState, PyTree
from jsplit.core.trees import abstract
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.crossing import crossing_ops
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.same_pieces import last_is_alone, pieces_are_whole
from jsplit.training.segment_ops import forward_op
from jsplit.training.step import inference_ops
from jsplit.training.walk import Address, Name, Op, Store, Walk, Wire, execute


def cache_name(node: Node) -> Name:
    """Where the cache of a node lies."""
    return Name(node.party, Kind.CACHE, node.name)


def same_name(node: Node) -> Name:
    """Where it lies whether a node computes by its cache what it computes without."""
    return Name(node.party, Kind.SAME, node.name)


def call_walk(config: Config, asker: str | None = None, checked: bool = False) -> Walk:
    """The walk of one call.

    Args:
        config: of the training.
        asker: to whom outputs go; `None`: they stay where they are computed.
        checked: whether caches are new, and are compared with segments without them.
    """
    topology = config.topology
    ops: list[Op] = []
    for op in inference_ops(config):
        if op.kind == OpKind.FORWARD:
            op = _cached_op(config, topology.node[op.what], checked)
        ops.append(op)
    kept: set[Address] = set()
    for name in topology.sinks:
        party = topology.node[name].party
        at = Name(party, Kind.VALUE, name)
        if asker not in (None, party):
            to = Name(asker, Kind.VALUE, name)
            wire = Wire(WireKind.ACTIVATION, name, party, asker)
            ops += crossing_ops(config, wire, [at], to, train=False)
            at = to
        kept.add(at)
    nodes = topology.segments
    kept |= {cache_name(n) for n in nodes if n.segment.cache is not None}
    kept |= {same_name(n) for n in nodes if checked}
    return Walk(tuple(ops), frozenset(kept))


def input_shapes(
    ops: Iterable[Op],
    store: Mapping[Address, PyTree],
    starts: Mapping[str, Callable[..., PyTree]],
) -> dict[str, tuple[PyTree, ...]]:
    """The shapes of what each node is given, by node.

    Args:
        ops: of all parties or of one.
        store: what they read, or its shapes; of one party, what it is sent too.
        starts: by node with a cache, what makes a first one for such inputs.
    """
    found: dict[str, tuple[PyTree, ...]] = {}

    def whole(store: Mapping[Address, PyTree]) -> None:
        held = dict(store)
        for op in ops:
            if op.kind == OpKind.FORWARD:
                count = sum(r.kind == Kind.VALUE for r in op.reads)
                given = [held[r] for r in op.reads[len(op.reads) - count :]]
                found[op.what] = abstract(tuple(given))
            if op.kind == OpKind.FORWARD and op.reads[0].kind == Kind.CACHE:
                held[op.reads[0]] = starts[op.what](*found[op.what])
            execute([op], held)

    jax.eval_shape(whole, dict(store))
    return found


def _cached_op(config: Config, node: Node, checked: bool) -> Op:
    """Run one segment on the next positions, by its cache if it has one."""
    plain, cache = forward_op(config, node, train=False), node.segment.cache
    at = () if cache is None else (cache_name(node),)

    def run(*given):
        before, rest = given[: len(at)], given[len(at) :]
        left: list[PyTree] = []

        # In the place of the segment's own: so weights that are tied, frozen or lent
        # come to it as to any forward pass.
        def apply(params, state, key, *inputs, train):
            alone = partial(_alone, node, params, state, key)
            if cache is None:
                output = alone(*inputs)
                if checked:
                    left.append(last_is_alone(alone, output, inputs))
                return output, state
            onward = partial(cache.apply, params, state)
            output, after = onward(before[0], *inputs)
            left.append(after)
            if checked:
                same = pieces_are_whole(alone, onward, before[0], output, inputs)
                left.append(same)
            return output, state

        stand_in = replace(node, segment=replace(node.segment, apply=apply))
        value, _ = forward_op(config, stand_in, train=False).run(*rest)
        return (value, *left)

    value = Name(node.party, Kind.VALUE, node.name)
    writes = (value, *at, *([same_name(node)] if checked else []))
    return Op(node.party, OpKind.FORWARD, node.name, (*at, *plain.reads), writes, run)


def _alone(node: Node, params: PyTree, state: PyTree, key: jax.Array, *inputs: PyTree):
    """What a segment gives without its cache."""
    return node.segment.apply(params, state, key, *inputs, train=False)[0]


def cache_inputs(
    nodes: Sequence[Node],
    states: Mapping[str, PartyState],
    ops: Iterable[Op],
    store: Mapping[Address, PyTree],
) -> dict[str, tuple[PyTree, ...]]:
    """The shapes of what each node is given of the longest sequence, by node.

    They take a trace of all segments, and are those of every session of one size.

    Args:
        nodes: whose caches will be made; those without one are passed over.
        states: of their parties.
        ops: of a call, of all parties or of one.
        store: what they read, or its shapes, for the longest sequence.
    """
    return input_shapes(ops, store, _starts(nodes, states))


def first_caches(
    nodes: Sequence[Node],
    states: Mapping[str, PartyState],
    inputs: Mapping[str, tuple[PyTree, ...]],
) -> Store:
    """The caches of sequences of which nothing has come, where they lie.

    Args:
        nodes: whose caches; those without one are passed over.
        states: of their parties.
        inputs: as `cache_inputs` gives them.
    """
    names = {n.name: cache_name(n) for n in nodes}
    starts = _starts(nodes, states)
    return {names[n]: start(*inputs[n]) for n, start in starts.items()}


def _starts(
    nodes: Sequence[Node], states: Mapping[str, PartyState]
) -> dict[str, Callable[..., PyTree]]:
    """What makes the cache of each node that has one."""
    starts = {}
    for node in nodes:
        if node.segment.cache is not None:
            own = states[node.party]
            given = own.params[node.name], own.state[node.name]
            starts[node.name] = partial(node.segment.cache.init, *given)
    return starts
