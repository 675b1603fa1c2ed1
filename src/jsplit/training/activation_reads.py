"""Which leaves of a value the party reads that it crosses to, in either mode."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import jax

from jsplit.core.base import PyTree, TrainState
from jsplit.core.loans import params_for
from jsplit.jaxprs.reads import Reads, leaves_in, reads_of, union
from jsplit.topology.nodes import Loss, Node
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.known import Known
from jsplit.training.losses import loss_op
from jsplit.training.store import layout_of, load
from jsplit.training.walk import Wire
from jsplit.training.wires import wires

_Read = dict[tuple[str, str], set[int]]
"""By value and party, the leaves that the party reads."""


def unread_activations(known: Known) -> dict[str, dict[Wire, frozenset[int]]]:
    """The leaves that nobody reads where they would arrive.

    Args:
        known: the training on shapes.

    Returns:
        By receiver and message.
    """
    read = _read(known)
    found: dict[str, dict[Wire, frozenset[int]]] = {p: {} for p in known.parties}
    for wire in wires(known.config.topology):
        if wire.kind == WireKind.ACTIVATION and wire.receiver in known.parties:
            leaves = range(len(jax.tree.leaves(known.values[wire.what])))
            unread = frozenset(leaves) - read[wire.what, wire.receiver]
            found[wire.receiver][wire] = unread
    return found


def _read(known: Known) -> _Read:
    topology = known.config.topology
    read: _Read = defaultdict(set)
    for wire in wires(topology):
        if wire.kind == WireKind.ACTIVATION and wire.receiver not in known.parties:
            leaves = range(len(jax.tree.leaves(known.values[wire.what])))
            agreed = known.agreed.get(wire, frozenset())
            read[wire.what, wire.receiver] = {*leaves} - agreed
    for loss in topology.losses:
        if loss.party in known.parties:
            _add_loss(known, loss, read)

    # A metric is any function of the host, which cannot be looked into.
    for metric in topology.metrics:
        for i in metric.reads:
            if metric.party in known.parties and i in known.values:
                leaves = range(len(jax.tree.leaves(known.values[i])))
                read[i, metric.party].update(leaves)

    # In inference as well: one form of a message serves both modes.
    modes = [_forward(known, train) for train in (True, False)]
    # From the end: what a node must give is what those after it read of it.
    for node in reversed(topology.segments):
        if node.party in known.parties:
            _add_node(known, node, [mode[node.name] for mode in modes], read)
    return read


def _add_loss(known: Known, loss: Loss, read: _Read) -> None:
    """Add what a loss reads."""
    # Without what looks at the loss: that is no reader.
    op = loss_op(known.config._replace(nonfinite="allow"), loss)
    layout = {loss.party: layout_of(known.config)[loss.party]}
    there = load(layout, TrainState({loss.party: known.states[loss.party]}))
    args: list[PyTree] = []
    complete = True
    for name in op.reads:
        if name.kind == Kind.VALUE:
            complete &= name.what in known.values
            args.append(known.values.get(name.what))
        else:
            # Else it is the weights of examples, which change nothing here.
            args.append(None if name.kind == Kind.WEIGHT else there[name])

    # Without its labels, as where only predictions are made, it is not computed.
    if not complete:
        return
    if loss.takes_weight:
        # Of weights it may read what it does not without.
        for name, x in zip(op.reads, args, strict=True):
            if name.kind == Kind.VALUE:
                read[name.what, loss.party].update(range(len(jax.tree.leaves(x))))
        return
    found = reads_of(op.run, *args)
    bits = union(found.results, range(len(found.results))) | found.effects
    for name, leaves in zip(op.reads, leaves_in(bits, args), strict=True):
        if name.kind == Kind.VALUE:
            read[name.what, loss.party].update(leaves)


def _forward(known: Known, train: bool) -> dict[str, tuple[Reads, list[PyTree]]]:
    """What each node's value and new state depend on in one mode, and its arguments."""
    values = dict(known.values)
    key = jax.eval_shape(jax.random.key, 0)
    found: dict[str, tuple[Reads, list[PyTree]]] = {}
    for node in known.config.topology.segments:
        if node.party in known.parties:
            own = known.states[node.party]
            params = params_for(known.config.topology.loans, node.name, own.params)
            args = [params, own.state[node.name], key]
            args += [values[i] for i in node.reads]
            # Not differentiated: a derivative of one's own may read what the value
            # itself does not, and here still counts as one operation with it.
            reads = reads_of(partial(node.segment.apply, train=train), *args)
            found[node.name] = reads, args
            values[node.name] = reads.shapes[0]
    return found


def _add_node(
    known: Known,
    node: Node,
    modes: list[tuple[Reads, list[PyTree]]],
    read: _Read,
) -> None:
    """Add what a node reads for what others read of its value, and for its state."""
    needed = {i for (what, _), own in read.items() if what == node.name for i in own}
    structure = jax.tree.structure(known.values[node.name])
    for reads, args in modes:
        value, _ = reads.shapes
        count = len(reads.results)
        size = len(jax.tree.leaves(value))
        # A value of another form in the other mode: its leaves have no common numbers.
        same = jax.tree.structure(value) == structure
        is_end = node.name in known.config.topology.sinks or not same
        chosen = range(size) if is_end else [i for i in range(size) if i in needed]
        bits = union(reads.results, [*chosen, *range(size, count)]) | reads.effects
        inputs = leaves_in(bits, args)[-len(node.reads) :] if node.reads else []
        for i, leaves in zip(node.reads, inputs, strict=True):
            read[i, node.party].update(leaves)
        if not same:
            for (what, _), own in read.items():
                if what == node.name:
                    own.update(range(len(jax.tree.leaves(known.values[what]))))
