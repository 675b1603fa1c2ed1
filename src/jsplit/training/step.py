"""A training step as a walk: forward in order, and backward in reverse by `jax.vjp` at every cut.

Every interpreter runs these same operations, so every interpreter gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jsplit.core.base import Link, Message, PyTree
from jsplit.core.keys import node_key
from jsplit.core.trees import (
    abstract,
    combine,
    describe,
    frame_bytes,
    inexact_part,
    nbytes,
    tree_sum,
)
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node
from jsplit.training.losses import cotangent, loss_and_cotangents_op, loss_op
from jsplit.training.vjp import Pullback
from jsplit.training.walk import Name, Op, Wire


class Config(NamedTuple):
    """What an interpreter is asked for, checked. See `jsplit.fused`."""

    topology: Topology
    optimizer: Mapping[str, optax.GradientTransformation]
    links: Mapping[tuple[str, str], Link]
    backward: str
    microbatches: int
    mesh: Mapping[str, Mesh] = {}


@jax.tree_util.register_pytree_node_class
class Packet:
    """An encoded value: the payload, which crosses, and the shapes its decoder needs, which are known."""

    def __init__(self, payload: PyTree, like: PyTree):
        self.payload, self.like = payload, like

    def tree_flatten(self):
        leaves, structure = jax.tree.flatten(self.like)
        return (self.payload,), (tuple((x.shape, x.dtype) for x in leaves), structure)

    @classmethod
    def tree_unflatten(cls, known, children):
        return cls(
            children[0],
            known[1].unflatten(
                jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in known[0]
            ),
        )


def message_of(wire: Wire, sent: PyTree) -> Message:
    """The record of a message; of what is sent only shapes and dtypes matter."""
    payload = sent.payload if isinstance(sent, Packet) else sent
    arrays = jax.tree.leaves(payload)
    shapes, dtypes = tuple(x.shape for x in arrays), tuple(x.dtype for x in arrays)
    shape, dtype = (shapes[0], dtypes[0]) if len(arrays) == 1 else (shapes, dtypes)
    ends = wire.sender, wire.receiver
    return Message(
        wire.what, wire.kind, *ends, shape, dtype, nbytes(payload), frame_bytes(payload)
    )


def _forward_ops(
    config: Config, *, train: bool, nodes: Sequence[Node], losses: Sequence[Loss]
) -> list[Op]:
    """Run `nodes`, and send what they and `losses` read."""
    ops: list[Op] = []
    arrived: set[tuple[str, str]] = set()
    topology = config.topology
    for node in (*nodes, *losses):
        for i in node.reads:
            if (
                i in topology.node
                and topology.node[i].party != node.party
                and (i, node.party) not in arrived
            ):
                arrived.add((i, node.party))
                sender = topology.node[i].party
                ops += _crossing(
                    config,
                    Wire("activation", i, sender, node.party),
                    [Name(sender, "value", i)],
                    Name(node.party, "value", i),
                    train=train,
                )
        if isinstance(node, Node):
            ops.append(_forward(config, node, train))
    return ops


def _backward_ops(config: Config) -> list[Op]:
    """From the losses back: every node after all that read it, and cotangents sent as soon as they are whole."""
    topology = config.topology
    ops = [
        loss_and_cotangents_op(topology, loss)
        if loss.differentiable_inputs
        else loss_op(topology, loss)
        for loss in topology.losses
    ]
    for node in reversed(topology.segments):
        for c in topology.crossings:
            if c.name == node.name and c.returns:
                ops += _crossing(
                    config,
                    Wire("cotangent", c.name, c.receiver, c.sender),
                    cotangents(config, c.name, c.receiver),
                    _returned(c.sender, c.name, c.receiver),
                )
        if differentiable(config, node):
            ops.append(_backward(config, node))
    return ops


def _returned(party: str, value: str, receiver: str) -> Name:
    """Where the cotangent of a value lies that came back from another party."""
    return Name(party, f"cotangent from {receiver}", value)


def cotangents(config: Config, value: str, party: str) -> list[Name]:
    """Where the cotangents of a value lie at a party, one from each of its own nodes and losses that read it."""
    topology = config.topology
    readers = [
        n.name
        for n in topology.segments
        if n.party == party
        and value in n.differentiable_inputs
        and n.name in topology.on_loss_path
    ]
    readers += [
        x.name
        for x in topology.losses
        if x.party == party and value in x.differentiable_inputs
    ]
    return [cotangent(party, value, reader) for reader in readers]


def _all_cotangents(config: Config, node: Node) -> list[Name]:
    """Those that the node's own party computes, and those that come over a crossing."""
    back = [
        c.receiver
        for c in config.topology.crossings
        if c.name == node.name and c.returns
    ]
    return cotangents(config, node.name, node.party) + [
        _returned(node.party, node.name, party) for party in back
    ]


def _state_cotangents(config: Config, node: Node) -> list[Name]:
    """Where the cotangents of a node's new state lie, if a penalty reads it."""
    return cotangents(config, f"{node.name}.state", node.party)


def differentiable(config: Config, node: Node) -> bool:
    return node.name in config.topology.depends_on_params and bool(
        _all_cotangents(config, node) or _state_cotangents(config, node)
    )


def _rng_names(config: Config, party: str) -> list[Name]:
    """What randomness is a function of: the key, the step, and the micro-batch where there are several."""
    several = [Name(party, "micro")] if config.microbatches > 1 else []
    return [Name(party, "key"), Name(party, "step"), *several]


def _step_key(key: jax.Array, step: jax.Array, *micro: jax.Array) -> jax.Array:
    """The key of one step, on which all parties agree: `fold_in(key, step)`.

    With several micro-batches each folds in its number once more."""
    key = jax.random.fold_in(key, step)
    return jax.random.fold_in(key, micro[0]) if micro else key


def _crossing(
    config: Config,
    wire: Wire,
    sent: Sequence[Name],
    received: Name,
    *,
    train: bool = True,
) -> list[Op]:
    """Encode at the sender, decode at the receiver; several things to send are summed.

    The memory of a link belongs to training; in inference it starts anew."""
    link = config.links.get((wire.kind, wire.what))
    label = wire.label
    if link is None:
        send = Op(
            wire.sender,
            f"send {label}",
            tuple(sent),
            (wire,),
            lambda *values: (tree_sum(values),),
        )
        return [
            send,
            Op(
                wire.receiver,
                f"receive {label}",
                (wire,),
                (received,),
                lambda value: (value,),
            ),
        ]
    memory = [Name(wire.sender, "link", label)] if train else []
    known = _rng_names(config, wire.sender)

    def encode(*given):
        state, key, value = (
            given[: len(memory)],
            given[len(memory) :][: len(known)],
            tree_sum(given[len(memory) + len(known) :]),
        )
        key = jax.random.fold_in(_step_key(*key), crc32("/".join(wire).encode()))
        payload, new = link.encode(
            state[0] if train else link.init(abstract(value)), value, key
        )
        return Packet(payload, abstract(value)), *([new] if train else [])

    def decode(packet):
        value = link.decode(packet.payload, packet.like)
        if (got := abstract(value)) != packet.like:
            raise ValueError(
                f"link of `{wire.what}`: `decode` gives {describe(got)} for the {wire.kind}, expected {describe(packet.like)}."
            )
        return (value,)

    send = Op(
        wire.sender, f"send {label}", (*memory, *known, *sent), (wire, *memory), encode
    )
    return [send, Op(wire.receiver, f"receive {label}", (wire,), (received,), decode)]


def _forward(config: Config, node: Node, train: bool) -> Op:
    """Run one segment; in training leave its vjp too."""
    learned, party, known = (
        config.topology.depends_on_params,
        node.party,
        _rng_names(config, node.party),
    )
    linear, watched = (
        train and differentiable(config, node),
        bool(_state_cotangents(config, node)),
    )
    reads = [Name(party, "params", node.name), Name(party, "state", node.name), *known]
    reads += [Name(party, "value", i) for i in node.reads]
    writes = [Name(party, "value", node.name), Name(party, "state", node.name)]

    def run(params, state, *rest):
        key, inputs = (
            node_key(_step_key(*rest[: len(known)]), node.name, node.segment),
            rest[len(known) :],
        )
        named = dict(zip(node.reads, inputs, strict=True))
        if not linear:
            return node.segment.apply(params, state, key, *inputs, train=train)

        def segment(weights, arrived):
            values = {
                i: combine(x, arrived[i]) if i in arrived else x
                for i, x in named.items()
            }
            args = [values[i] for i in node.reads]
            value, new = node.segment.apply(
                combine(params, weights), state, key, *args, train=True
            )
            return (inexact_part(value), inexact_part(new) if watched else ()), (
                value,
                new,
            )

        segment = jax.checkpoint(segment) if config.backward == "recompute" else segment
        free = (
            inexact_part(params),
            {
                i: inexact_part(x)
                for i, x in named.items()
                if i in learned and i in node.differentiable_inputs
            },
        )
        (out, kept), pull, (value, new) = jax.vjp(segment, *free, has_aux=True)
        pull = Pullback.of(
            pull, (params, *[named[i] for i in _own_fields(config, node)])
        )
        return combine(value, out), combine(new, kept) if watched else new, pull

    vjp = [Name(party, "vjp", node.name)] if linear else []
    return Op(party, f"forward {node.name}", tuple(reads), (*writes, *vjp), run)


def _backward(config: Config, node: Node) -> Op:
    """Pull the cotangents of one node back to its parameters and inputs."""
    party = node.party
    outer, inner = _all_cotangents(config, node), _state_cotangents(config, node)
    inputs = [
        i for i in node.differentiable_inputs if i in config.topology.depends_on_params
    ]
    like = (
        [] if outer else [Name(party, "value", node.name)]
    )  # a penalty on the state alone: zeros for the value
    grad = [Name(party, "grad", node.name)] if node.segment.trainable else []

    had = [
        Name(party, "params", node.name),
        *[Name(party, "value", i) for i in _own_fields(config, node)],
    ]

    def run(pull, *rest):
        known, rest = rest[: len(had)], rest[len(had) :]
        value_ct = (
            tree_sum(rest[: len(outer)])
            if outer
            else jax.tree.map(jnp.zeros_like, inexact_part(rest[0]))
        )
        state_ct = tree_sum(rest[-len(inner) :]) if inner else ()
        weights, arrived = pull((value_ct, state_ct), known)
        return (*[weights for _ in grad], *[arrived[i] for i in inputs])

    reads = (Name(party, "vjp", node.name), *had, *outer, *like, *inner)
    writes = (*grad, *[cotangent(party, i, node.name) for i in inputs])
    return Op(party, f"backward {node.name}", reads, writes, run)


def _own_fields(config: Config, node: Node) -> list[str]:
    """The fields among a node's inputs: its party holds them anyway, while a message that no residual needs may go."""
    return [i for i in dict.fromkeys(node.reads) if i in config.topology.fields]


def wires(topology: Topology) -> list[Wire]:
    """Every message of a training step."""
    up = [Wire("activation", c.name, c.sender, c.receiver) for c in topology.crossings]
    return up + [
        Wire("cotangent", c.name, c.receiver, c.sender)
        for c in topology.crossings
        if c.returns
    ]


def inference_ops(config: Config, losses: Sequence[Loss] = ()) -> list[Op]:
    """The forward pass in inference mode, and `losses` without their cotangents."""
    config = config._replace(microbatches=1)
    ops = _forward_ops(
        config, train=False, nodes=config.topology.segments, losses=losses
    )
    return ops + [loss_op(config.topology, loss) for loss in losses]


def training_ops(config: Config) -> list[Op]:
    """Forward and backward over one (micro-)batch."""
    topology = config.topology
    return _forward_ops(
        config, train=True, nodes=topology.segments, losses=topology.losses
    ) + _backward_ops(config)
