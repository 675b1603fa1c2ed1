"""A value on its way to another party, encoded by its link and decoded again.

Here are the operations at both ends of a crossing, and the messages
between them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from zlib import crc32

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, Message, PyTree
from jsplit.core.trees import abstract, describe, frame_bytes, nbytes, tree_sum
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.walk import Name, Op, Wire


def wires(topology: Topology) -> list[Wire]:
    """Every message of a step or an evaluation: all activations, then all cotangents."""
    up = [
        Wire(WireKind.ACTIVATION, c.name, c.sender, c.receiver)
        for c in topology.crossings
    ]
    down = [
        Wire(WireKind.COTANGENT, c.name, c.receiver, c.sender)
        for c in topology.crossings
        if c.returns
    ]
    return up + down


@jax.tree_util.register_pytree_node_class
class Packet:
    """What crosses of a value: the payload, and the shapes that it is made of.

    Args:
        payload: what crosses.
        like: the shapes that its decoder is given.
        whole: those of the value, with what does not cross.
    """

    def __init__(self, payload: PyTree, like: PyTree, whole: PyTree):
        self.payload, self.like, self.whole = payload, like, whole

    def tree_flatten(self):
        # Shapes are part of the structure: compiled code must know
        # them, and structures are compared and hashed, which a tree of
        # shapes cannot be.
        return (self.payload,), (_hashable(self.like), _hashable(self.whole))

    @classmethod
    def tree_unflatten(cls, known, children):
        return cls(children[0], *map(_shapes, known))


def _hashable(shapes: PyTree) -> tuple:
    leaves, structure = jax.tree.flatten(shapes)
    return tuple((x.shape, x.dtype) for x in leaves), structure


def _shapes(hashable: tuple) -> PyTree:
    leaves, structure = hashable
    return structure.unflatten(jax.ShapeDtypeStruct(*x) for x in leaves)


def crossing_part(config: Config, wire: Wire, value: PyTree) -> PyTree:
    """The part of a value, or of its shapes, that crosses.

    Args:
        config: which knows what nobody reads.
        wire: the message.
        value: what lies at the sender.

    Returns:
        The value with `None` in the place of what nobody reads; of one
        array always that array.
    """
    # What is not asked for is not found out: that takes another trace
    # of every segment.
    if config.passing is None or len(jax.tree.leaves(value)) < 2:
        return value
    return without(value, config.passing.unread(wire))


def without(value: PyTree, unread: Collection[int]) -> PyTree:
    """A pytree with `None` in the place of some of its leaves, by their numbers."""
    leaves, structure = jax.tree.flatten(value)
    return structure.unflatten(None if i in unread else x for i, x in enumerate(leaves))


def packet(config: Config, wire: Wire, payload: PyTree, whole: PyTree) -> PyTree:
    """What the receiver of a message reads: a `Packet` if the payload is not the value itself.

    Args:
        config: with the message's link, if it has one.
        wire: the message.
        payload: what crosses, or its shapes.
        whole: the shapes of the value.
    """
    like = crossing_part(config, wire, whole)
    complete = jax.tree.structure(like) == jax.tree.structure(whole)
    linked = (wire.kind, wire.what) in config.links
    return Packet(payload, like, whole) if linked or not complete else payload


def _completed(value: PyTree, whole: PyTree) -> PyTree:
    """What has crossed of a value, with zeros in the place of what has not."""

    # Nothing depends on these zeros, so no program holds them.
    def found(shape: jax.ShapeDtypeStruct, x: PyTree) -> PyTree:
        return jnp.zeros(shape.shape, shape.dtype) if x is None else x

    return jax.tree.map(found, whole, value)


def message_of(wire: Wire, sent: PyTree) -> Message:
    """The record of a message; of what is sent only shapes and dtypes matter."""
    payload = sent.payload if isinstance(sent, Packet) else sent
    arrays = jax.tree.leaves(payload)
    shapes = tuple(x.shape for x in arrays)
    dtypes = tuple(x.dtype for x in arrays)
    shape, dtype = (shapes[0], dtypes[0]) if len(arrays) == 1 else (shapes, dtypes)
    return Message(
        wire.what,
        # A plain string: users print messages and write them to files.
        str(wire.kind),
        wire.sender,
        wire.receiver,
        shape,
        dtype,
        nbytes(payload),
        frame_bytes(payload),
    )


def rng_names(config: Config, party: str) -> list[Name]:
    """What randomness is a function of: the key, the step and, with several, the micro-batch."""
    several = [Name(party, Kind.MICRO)] if config.microbatches > 1 else []
    return [Name(party, Kind.KEY), Name(party, Kind.STEP), *several]


def step_key(key: jax.Array, step: jax.Array, *micro: jax.Array) -> jax.Array:
    """The key of one step, on which all parties agree: `fold_in(key, step)`.

    With several micro-batches each folds in its number once more.
    """
    key = jax.random.fold_in(key, step)
    return jax.random.fold_in(key, micro[0]) if micro else key


def crossing_ops(
    config: Config,
    wire: Wire,
    sent: Sequence[Name],
    received: Name,
    *,
    train: bool = True,
) -> list[Op]:
    """Encode at the sender, decode at the receiver.

    Args:
        config: whose links and randomness are used.
        wire: the message.
        sent: what lies at the sender; several things are summed before
            they are sent.
        received: where the decoded value lies at the receiver.
        train: whether the link's memory is read and written; in
            inference it starts anew.

    Returns:
        Two operations, one at each end.
    """
    link = config.links.get((wire.kind, wire.what))
    if link is None:
        return [_send_op(config, wire, sent), _receive_op(wire, received)]
    send = _encode_op(config, wire, link, sent, train)
    return [send, _decode_op(wire, link, received)]


# Without a link there are no keys: what is sent is what arrives.
def _send_op(config: Config, wire: Wire, sent: Sequence[Name]) -> Op:
    """Send what crosses of a value."""

    def send(*values):
        value = tree_sum(values)
        part = crossing_part(config, wire, value)
        return (packet(config, wire, part, abstract(value)),)

    return Op(wire.sender, OpKind.SEND, wire.label, tuple(sent), (wire,), send)


def _receive_op(wire: Wire, received: Name) -> Op:
    """Receive a value, or what has crossed of it."""

    def receive(sent):
        if isinstance(sent, Packet):
            sent = _completed(sent.payload, sent.whole)
        return (sent,)

    return Op(wire.receiver, OpKind.RECEIVE, wire.label, (wire,), (received,), receive)


def _encode_op(
    config: Config, wire: Wire, link: Link, sent: Sequence[Name], train: bool
) -> Op:
    """Send what the link makes of a value."""
    memory = (Name(wire.sender, Kind.LINK, wire.label),) if train else ()
    known = rng_names(config, wire.sender)
    at_key, at_value = len(memory), len(memory) + len(known)

    def encode(*given):
        state, key, value = (
            given[:at_key],
            given[at_key:at_value],
            tree_sum(given[at_value:]),
        )
        # Each crossing draws for itself: the message's name is folded
        # into the step's key.
        key = jax.random.fold_in(step_key(*key), crc32("/".join(wire).encode()))
        part, whole = crossing_part(config, wire, value), abstract(value)
        like = abstract(part)
        before = state[0] if train else link.init(like)
        payload, after = link.encode(before, part, key)
        return Packet(payload, like, whole), *([after] if train else [])

    reads = (*memory, *known, *sent)
    return Op(wire.sender, OpKind.SEND, wire.label, reads, (wire, *memory), encode)


def _decode_op(wire: Wire, link: Link, received: Name) -> Op:
    """Receive a value from what its link made of it."""

    def decode(sent):
        value = link.decode(sent.payload, sent.like)
        # A wrong shape would fail, or broadcast, far from the link that
        # made it.
        if (got := abstract(value)) != sent.like:
            raise ValueError(
                f"link of `{wire.what}`: `decode` gives {describe(got)} for the "
                f"{wire.kind}, expected {describe(sent.like)}."
            )
        return (_completed(value, sent.whole),)

    return Op(wire.receiver, OpKind.RECEIVE, wire.label, (wire,), (received,), decode)
