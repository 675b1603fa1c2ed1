"""A value on its way to another party, encoded by its link and decoded again.

Here are the operations at both ends of a crossing, and the messages
between them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, Message, PyTree
from jsplit.core.checks import first_line
from jsplit.core.links import encode_by, encoded
from jsplit.core.receiving import decode_by
from jsplit.core.trees import abstract, describe, frame_bytes, nbytes, tree_sum
from jsplit.training.config import Config
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.own_reads import read_names, told
from jsplit.training.randomness import link_key, link_key_names
from jsplit.training.strengths import strength_names
from jsplit.training.unscaled import divided, is_unscaled, multiplied, scale_at, seen
from jsplit.training.walk import Name, Op, Wire
from jsplit.training.wires import wires


def secret_senders(config: Config, *, train: bool = True) -> tuple[str, ...]:
    """The parties that draw secret noise, for what they send or learn, each once.

    Args:
        config: of the training.
        train: whether in a step, or in inference, where no cotangent is sent.
    """
    found = []
    for wire in wires(config.topology):
        link = config.links.get((wire.kind, wire.what))
        if link is not None and link.secret:
            if train or wire.kind == WireKind.ACTIVATION:
                found.append(wire.sender)
    if train:
        found += [n.party for n in config.topology.segments if n.segment.noise]
    return tuple(dict.fromkeys(found))


def remembering(config: Config, wire: Wire) -> tuple[str, ...]:
    """The parties that have a memory of the link of a message: who sends, and who gets it."""
    link = config.links.get((wire.kind, wire.what))
    if link is None:
        return ()
    # Both under the message's label: nobody sends to itself.
    return (wire.sender,) if link.receiver is None else (wire.sender, wire.receiver)


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
    return (
        Packet(payload, seen(config, wire, like), whole)
        if linked or not complete
        else payload
    )


def completed(value: PyTree, whole: PyTree) -> PyTree:
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
        train: whether the link's memories are read and written; in
            inference they start anew.

    Returns:
        Two operations, one at each end.
    """
    link = config.links.get((wire.kind, wire.what))
    if link is None:
        return [_send_op(config, wire, sent), _receive_op(wire, received)]
    send = _encode_op(config, wire, link, sent, train)
    return [send, _decode_op(config, wire, link, received, train)]


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
            sent = completed(sent.payload, sent.whole)
        return (sent,)

    return Op(wire.receiver, OpKind.RECEIVE, wire.label, (wire,), (received,), receive)


def _encode_op(
    config: Config, wire: Wire, link: Link, sent: Sequence[Name], train: bool
) -> Op:
    """Send what the link makes of a value."""
    memory = (Name(wire.sender, Kind.LINK, wire.label),) if train else ()
    drawn = link_key_names(config, wire, link, train)
    own = read_names(config, wire, link, train) | strength_names(wire.sender, link)
    scale = scale_at(config, wire, link, wire.sender)
    parts = (memory, drawn, scale, own.values(), sent)

    def encode(*given):
        left = iter(given)
        state, key, kept, read, terms = ([next(left) for _ in part] for part in parts)
        value = tree_sum(terms)
        part, whole = crossing_part(config, wire, value), abstract(value)
        if is_unscaled(config, wire, link):
            part = divided(config, kept, part)
        like = abstract(part)
        before = state[0] if train else link.init(like)
        payload, after = encode_by(
            link,
            before,
            part,
            link_key(wire, link, train, *key),
            told(link, dict(zip(own, read, strict=True))),
        )
        if link.reads:
            _check_payload(wire, link, payload, like)
        return Packet(payload, like, whole), *([after] if train else [])

    reads = tuple(name for part in parts for name in part)
    return Op(wire.sender, OpKind.SEND, wire.label, reads, (wire, *memory), encode)


def _check_payload(wire: Wire, link: Link, payload: PyTree, like: PyTree) -> None:
    """Refuse a payload whose shapes depend on what its link reads."""
    # The receiver works its shapes out without that, on a network and in a chain.
    try:
        wanted, _ = encoded(link, like)
    except Exception as error:
        raise ValueError(
            f"link of `{wire.what}`: `encode` does not run for the {wire.kind} where "
            f"{', '.join(link.reads)} is None: {first_line(error)}"
        ) from error
    if (got := abstract(payload)) != wanted:
        raise ValueError(
            f"link of `{wire.what}`: the {wire.kind} is encoded as {describe(got)}, and "
            f"as {describe(wanted)} where nothing of {', '.join(link.reads)} is there."
        )


def _decode_op(
    config: Config, wire: Wire, link: Link, received: Name, train: bool
) -> Op:
    """Receive a value from what its link made of it."""
    scale = scale_at(config, wire, link, wire.receiver)
    # The memory comes last, in what is read and in what is written: `recording` goes by it.
    kept_here = train and link.receiver is not None
    memory = (Name(wire.receiver, Kind.LINK, wire.label),) if kept_here else ()

    def decode(sent, *given):
        kept, own = given[: len(scale)], given[len(scale) :]
        if memory:
            value, *after = decode_by(link, own[0], sent.payload, sent.like)
        else:
            value, after = link.decode(sent.payload, sent.like), []
        # A wrong shape would fail, or broadcast, far from the link that
        # made it.
        if (got := abstract(value)) != sent.like:
            raise ValueError(
                f"link of `{wire.what}`: `decode` gives {describe(got)} for the "
                f"{wire.kind}, expected {describe(sent.like)}."
            )
        if is_unscaled(config, wire, link):
            value = multiplied(
                config, kept, value, crossing_part(config, wire, sent.whole)
            )
        return completed(value, sent.whole), *after

    reads, writes = (wire, *scale, *memory), (received, *memory)
    return Op(wire.receiver, OpKind.RECEIVE, wire.label, reads, writes, decode)
