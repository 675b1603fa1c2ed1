"""A value on its way to another party, encoded by its link and decoded again.

Here are the operations at both ends of a crossing, and the messages
between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import jax

from jsplit.core.base import Link, Message, PyTree
from jsplit.core.trees import abstract, describe, frame_bytes, nbytes, tree_sum
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.walk import Name, Op, Wire


def wires(topology: Topology) -> list[Wire]:
    """Every message of a training step: all activations, then all cotangents."""
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
    """An encoded value: the payload, which crosses, and the shapes that its decoder is given."""

    def __init__(self, payload: PyTree, like: PyTree):
        self.payload, self.like = payload, like

    def tree_flatten(self):
        # Shapes are part of the structure: compiled code must know
        # them, and structures are compared and hashed, which a tree of
        # shapes cannot be.
        leaves, structure = jax.tree.flatten(self.like)
        return (self.payload,), (tuple((x.shape, x.dtype) for x in leaves), structure)

    @classmethod
    def tree_unflatten(cls, known, children):
        shapes, structure = known
        like = structure.unflatten(
            jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes
        )
        return cls(children[0], like)


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
    # Without a link there are no packets and no keys: what is sent is
    # what arrives.
    if link is None:
        return [
            Op(
                wire.sender,
                OpKind.SEND,
                wire.label,
                tuple(sent),
                (wire,),
                lambda *values: (tree_sum(values),),
            ),
            Op(
                wire.receiver,
                OpKind.RECEIVE,
                wire.label,
                (wire,),
                (received,),
                lambda value: (value,),
            ),
        ]
    send = _encode_op(config, wire, link, sent, train)
    return [send, _decode_op(wire, link, received)]


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
        like = abstract(value)
        before = state[0] if train else link.init(like)
        payload, after = link.encode(before, value, key)
        return Packet(payload, like), *([after] if train else [])

    reads = (*memory, *known, *sent)
    return Op(wire.sender, OpKind.SEND, wire.label, reads, (wire, *memory), encode)


def _decode_op(wire: Wire, link: Link, received: Name) -> Op:
    """Receive a value from what its link made of it."""

    def decode(packet):
        value = link.decode(packet.payload, packet.like)
        # A wrong shape would fail, or broadcast, far from the link that
        # made it.
        if (got := abstract(value)) != packet.like:
            raise ValueError(
                f"link of `{wire.what}`: `decode` gives {describe(got)} for the "
                f"{wire.kind}, expected {describe(packet.like)}."
            )
        return (value,)

    return Op(wire.receiver, OpKind.RECEIVE, wire.label, (wire,), (received,), decode)
