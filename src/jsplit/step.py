"""The walk: a step as a list of operations, forward in order and backward in reverse.

Every operation belongs to one party and reads and writes names of that party alone; only names of kind
`wire` pass from one party to another. An interpreter runs the same list: all of it in one `jit`, or cut
into turns, the longest runs of work that a party can do before it must wait for a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import optax

from jsplit.base import Link, Message, PyTree, frame_bytes, nbytes, node_key, said, shapes_of
from jsplit.topology import Loss, Node, Topology

SUM = "sum of "
"""Prefix of the kind of a sum over micro-batches."""


class Name(NamedTuple):
    """Where something lies: in the memory of `party`, as the `kind` of thing `what`."""

    party: str
    kind: str
    what: str = ""


class Wire(NamedTuple):
    """A message under way: the `kind` ("activation", "cotangent") of the value `what`."""

    kind: str
    what: str
    sender: str
    receiver: str

    @property
    def label(self) -> str:
        return f"{self.kind} {self.what} to {self.receiver}"


class Op(NamedTuple):
    """`run(*reads) -> writes`, a pure function, at one party."""

    party: str
    label: str
    reads: tuple[Name | Wire, ...]
    writes: tuple[Name | Wire, ...]
    run: Callable[..., tuple]


class Config(NamedTuple):
    """What an interpreter is asked for, checked. See `jsplit.fused`."""

    topology: Topology
    optimizer: Mapping[str, optax.GradientTransformation]
    links: Mapping[tuple[str, str], Link]
    backward: str
    microbatches: int


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
        return cls(children[0], known[1].unflatten(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in known[0]))


def message_of(wire: Wire, sent: PyTree) -> Message:
    """The record of a message; of what is sent only shapes and dtypes matter."""
    payload, like = (sent.payload, sent.like) if isinstance(sent, Packet) else (sent, sent)
    arrays = jax.tree.leaves(like)
    shapes, dtypes = tuple(x.shape for x in arrays), tuple(x.dtype for x in arrays)
    shape, dtype = (shapes[0], dtypes[0]) if len(arrays) == 1 else (shapes, dtypes)
    ends = wire.sender, wire.receiver
    return Message(wire.what, wire.kind, *ends, shape, dtype, nbytes(payload), frame_bytes(payload))


def floating(tree: PyTree) -> PyTree:
    """The part of a pytree that can be differentiated: `None` in the place of every other leaf.

    Cotangents and gradients have this form; `put_back` is the inverse."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None, tree)


def put_back(tree: PyTree, part: PyTree) -> PyTree:
    """`tree` with the leaves of `part` in the place of its own, wherever `part` has one."""
    return jax.tree.map(lambda x, new: x if new is None else new, tree, part)


def add(trees: Sequence[PyTree]) -> PyTree:
    first, *others = trees
    for tree in others:
        first = jax.tree.map(jnp.add, first, tree)
    return first


def forward_ops(config: Config, *, train: bool, nodes: Sequence[Node], losses: Sequence[Loss]) -> list[Op]:
    """Run `nodes`, and send what they and `losses` read."""
    ops: list[Op] = []
    arrived: set[tuple[str, str]] = set()
    topology = config.topology
    for node in (*nodes, *losses):
        for i in node.reads:
            if i in topology.node and topology.node[i].party != node.party and (i, node.party) not in arrived:
                arrived.add((i, node.party))
                sender = topology.node[i].party
                ops += crossing(
                    config, Wire("activation", i, sender, node.party),
                    [Name(sender, "value", i)], Name(node.party, "value", i), train=train,
                )  # fmt: skip
        if isinstance(node, Node):
            ops.append(forward(config, node, train))
    return ops


def backward_ops(config: Config) -> list[Op]:
    """From the losses back: every node after all that read it, and cotangents sent as soon as they are whole."""
    topology = config.topology
    ops = [differentiate(config, loss) for loss in topology.losses]
    for node in reversed(topology.segments):
        for c in topology.crossings:
            if c.name == node.name and c.returns:
                ops += crossing(
                    config, Wire("cotangent", c.name, c.receiver, c.sender),
                    cotangents(config, c.name, c.receiver), returned(c.sender, c.name, c.receiver),
                )  # fmt: skip
        if differentiable(config, node):
            ops.append(backward(config, node))
    return ops


def cotangent(party: str, value: str, reader: str) -> Name:
    """Where the cotangent of a value lies that one node or loss of the party computes."""
    return Name(party, f"cotangent by {reader}", value)


def returned(party: str, value: str, receiver: str) -> Name:
    """Where the cotangent of a value lies that came back from another party."""
    return Name(party, f"cotangent from {receiver}", value)


def cotangents(config: Config, value: str, party: str) -> list[Name]:
    """Where the cotangents of a value lie at a party, one from each of its own nodes and losses that read it."""
    topology = config.topology
    readers = [n.name for n in topology.segments if n.party == party and value in n.reads and n.name in topology.objective]
    readers += [x.name for x in topology.losses if x.party == party and value in x.reads]
    return [cotangent(party, value, reader) for reader in readers]


def all_cotangents(config: Config, node: Node) -> list[Name]:
    """Those that the node's own party computes, and those that come over a crossing."""
    back = [c.receiver for c in config.topology.crossings if c.name == node.name and c.returns]
    return cotangents(config, node.name, node.party) + [returned(node.party, node.name, party) for party in back]


def observed(config: Config, node: Node) -> list[Name]:
    """Where the cotangents of a node's new state lie, if a penalty reads it."""
    return cotangents(config, f"{node.name}.state", node.party)


def differentiable(config: Config, node: Node) -> bool:
    return node.name in config.topology.trained and bool(all_cotangents(config, node) or observed(config, node))


def common(config: Config, party: str) -> list[Name]:
    """What randomness is a function of: the key, the step, and the micro-batch where there are several."""
    several = [Name(party, "micro")] if config.microbatches > 1 else []
    return [Name(party, "key"), Name(party, "step"), *several]


def step_key(key: jax.Array, step: jax.Array, *micro: jax.Array) -> jax.Array:
    """The key of one step, on which all parties agree: `fold_in(key, step)`.

    With several micro-batches each folds in its number once more."""
    key = jax.random.fold_in(key, step)
    return jax.random.fold_in(key, micro[0]) if micro else key


def crossing(config: Config, wire: Wire, sent: Sequence[Name], received: Name, *, train: bool = True) -> list[Op]:
    """Encode at the sender, decode at the receiver; several things to send are summed.

    The memory of a link belongs to training; in inference it starts anew."""
    link = config.links.get((wire.kind, wire.what))
    label = wire.label
    if link is None:
        send = Op(wire.sender, f"send {label}", tuple(sent), (wire,), lambda *values: (add(values),))
        return [send, Op(wire.receiver, f"receive {label}", (wire,), (received,), lambda value: (value,))]
    memory = [Name(wire.sender, "link", label)] if train else []
    known = common(config, wire.sender)

    def encode(*given):
        state, key, value = given[: len(memory)], given[len(memory) :][: len(known)], add(given[len(memory) + len(known) :])
        key = jax.random.fold_in(step_key(*key), crc32("/".join(wire).encode()))
        payload, new = link.encode(state[0] if train else link.init(shapes_of(value)), value, key)
        return Packet(payload, shapes_of(value)), *([new] if train else [])

    def decode(packet):
        value = link.decode(packet.payload, packet.like)
        if (got := shapes_of(value)) != packet.like:
            raise ValueError(
                f"link of `{wire.what}`: `decode` gives {said(got)} for the {wire.kind}, expected {said(packet.like)}."
            )
        return (value,)

    send = Op(wire.sender, f"send {label}", (*memory, *known, *sent), (wire, *memory), encode)
    return [send, Op(wire.receiver, f"receive {label}", (wire,), (received,), decode)]


def forward(config: Config, node: Node, train: bool) -> Op:
    """Run one segment; in training leave its vjp too."""
    trained, party, known = config.topology.trained, node.party, common(config, node.party)
    linear, watched = train and differentiable(config, node), bool(observed(config, node))
    reads = [Name(party, "params", node.name), Name(party, "state", node.name), *known]
    reads += [Name(party, "value", i) for i in node.reads]
    writes = [Name(party, "value", node.name), Name(party, "state", node.name)]

    def run(params, state, *rest):
        key, inputs = node_key(step_key(*rest[: len(known)]), node.name, node.segment), rest[len(known) :]
        if not linear:
            return node.segment.apply(params, state, key, *inputs, train=train)
        named = dict(zip(node.reads, inputs, strict=True))

        def segment(weights, arrived):
            values = {i: put_back(x, arrived[i]) if i in arrived else x for i, x in named.items()}
            args = [values[i] for i in node.reads]
            value, new = node.segment.apply(put_back(params, weights), state, key, *args, train=True)
            return (floating(value), floating(new) if watched else ()), (value, new)

        segment = jax.checkpoint(segment) if config.backward == "recompute" else segment
        free = floating(params), {i: floating(x) for i, x in named.items() if i in trained}
        (out, kept), pull, (value, new) = jax.vjp(segment, *free, has_aux=True)
        return put_back(value, out), put_back(new, kept) if watched else new, pull

    vjp = [Name(party, "vjp", node.name)] if linear else []
    return Op(party, f"forward {node.name}", tuple(reads), (*writes, *vjp), run)


def backward(config: Config, node: Node) -> Op:
    """Pull the cotangents of one node back to its parameters and inputs."""
    party = node.party
    outer, inner = all_cotangents(config, node), observed(config, node)
    inputs = [i for i in dict.fromkeys(node.reads) if i in config.topology.trained]
    like = [] if outer else [Name(party, "value", node.name)]  # a penalty on the state alone: zeros for the value
    grad = [Name(party, "grad", node.name)] if node.segment.trainable else []

    def run(pull, *rest):
        value_ct = add(rest[: len(outer)]) if outer else jax.tree.map(jnp.zeros_like, floating(rest[0]))
        state_ct = add(rest[-len(inner) :]) if inner else ()
        weights, arrived = pull((value_ct, state_ct))
        return (*[weights for _ in grad], *[arrived[i] for i in inputs])

    reads = (Name(party, "vjp", node.name), *outer, *like, *inner)
    writes = (*grad, *[cotangent(party, i, node.name) for i in inputs])
    return Op(party, f"backward {node.name}", reads, writes, run)


def source_of(topology: Topology, party: str, i: str) -> Name:
    """Where an input of a loss lies: a value or field, or the parameters or new state of a node."""
    base, _, own = i.rpartition(".")
    return Name(party, "value", i) if i in topology.node or i in topology.fields else Name(party, own, base)


def wires(topology: Topology) -> list[Wire]:
    """Every message of a training step."""
    up = [Wire("activation", c.name, c.sender, c.receiver) for c in topology.crossings]
    return up + [Wire("cotangent", c.name, c.receiver, c.sender) for c in topology.crossings if c.returns]


def inference_ops(config: Config, losses: Sequence[Loss] = ()) -> list[Op]:
    """The forward pass in inference mode, and `losses` without their cotangents."""
    config = config._replace(microbatches=1)
    ops = forward_ops(config, train=False, nodes=config.topology.segments, losses=losses)
    return ops + [compute(config, loss) for loss in losses]


def training_ops(config: Config) -> list[Op]:
    """Forward and backward over one (micro-)batch."""
    topology = config.topology
    return forward_ops(config, train=True, nodes=topology.segments, losses=topology.losses) + backward_ops(config)


def compute(config: Config, loss: Loss) -> Op:
    reads = tuple(source_of(config.topology, loss.party, i) for i in loss.reads)
    return Op(loss.party, f"loss {loss.name}", reads, (Name(loss.party, "loss", loss.name),), lambda *x: (mean(loss, x),))


def mean(loss: Loss, inputs: Sequence[PyTree]) -> jax.Array:
    def wide(x):
        narrow = jnp.issubdtype(jnp.result_type(x), jnp.floating) and x.dtype.itemsize < 4
        return x.astype(jnp.float32) if narrow else x

    result = loss.fn(*jax.tree.map(wide, inputs))
    if not hasattr(result, "dtype") or not jnp.issubdtype(result.dtype, jnp.floating):
        got = jax.typeof(result).str_short() if hasattr(result, "dtype") else type(result).__name__
        raise ValueError(f"loss `{loss.name}`: `fn` must return a floating array, got {got}.")
    return jnp.mean(result)


def differentiate(config: Config, loss: Loss) -> Op:
    """Compute one loss and the cotangents of what it reads, `weight` times."""
    topology, party = config.topology, loss.party
    places = {i: source_of(topology, party, i) for i in loss.reads}
    free = [i for i, place in places.items() if place.what in topology.trained]  # what depends on some parameter

    def run(*inputs):
        named = dict(zip(places, inputs, strict=True))

        def fn(parts):
            values = {i: put_back(x, parts[i]) if i in parts else x for i, x in named.items()}
            return mean(loss, [values[i] for i in loss.reads])

        value, pull = jax.vjp(fn, {i: floating(named[i]) for i in free})
        (found,) = pull(jnp.full_like(value, loss.weight))
        return value, *[found[i] for i in free]

    writes = [Name(party, "loss", loss.name), *[cotangent(party, i, loss.name) for i in free]]
    return Op(party, f"loss {loss.name}", tuple(places.values()), tuple(writes), run)


def gradients(config: Config, party: str) -> dict[str, list[Name]]:
    """Where the gradients of a party's parameters lie: from the backward pass, and from penalties on them."""
    topology = config.topology
    own = [n for n in topology.segments if n.party == party and n.segment.trainable]
    return {
        n.name: [Name(party, "grad", n.name)] * differentiable(config, n) + cotangents(config, f"{n.name}.params", party)
        for n in own
    }


def accumulate_ops(config: Config) -> list[Op]:
    """Add the gradients and losses of one micro-batch to their sums."""
    ops = []
    for party in config.topology.parties:
        names = [n for ns in gradients(config, party).values() for n in ns]
        names += [Name(party, "loss", x.name) for x in config.topology.losses if x.party == party]
        sums = tuple(total(n) for n in names)

        def run(*values):
            half = len(values) // 2
            return tuple(jax.tree.map(lambda s, v: s + v.astype(s.dtype), values[:half], values[half:]))

        if names:
            ops.append(Op(party, "accumulate", (*sums, *names), sums, run))
    return ops


def total(name: Name) -> Name:
    """Where the sum over micro-batches lies."""
    return name._replace(kind=SUM + name.kind)


def update_ops(config: Config) -> list[Op]:
    """One optimizer step at each party, from its gradients or, with several micro-batches, their mean."""
    return [update(config, party) for party in config.topology.parties]


def update(config: Config, party: str) -> Op:
    """The optimizer step of one party, over the floating leaves of its parameters; others stay as they are."""
    several = config.microbatches > 1
    grads = {n: [total(g) if several else g for g in gs] for n, gs in gradients(config, party).items()}
    counter, memory = Name(party, "step"), Name(party, "optimizer")
    params = [Name(party, "params", n) for n in grads]
    if not grads:
        return Op(party, "update", (counter,), (counter,), lambda step: (step + 1,))
    optimizer = config.optimizer[party]

    def run(step, state, *rest):
        old, found = dict(zip(grads, rest, strict=False)), iter(rest[len(grads) :])
        weights, gradient = floating(old), {}
        for n, names in grads.items():
            parts = [next(found) for _ in names] or [jax.tree.map(jnp.zeros_like, weights[n])]
            gradient[n] = add(parts)
            if several:
                gradient[n] = jax.tree.map(lambda g, w: (g / config.microbatches).astype(w.dtype), gradient[n], weights[n])
        updates, state = optimizer.update(gradient, state, weights)
        new: Any = put_back(old, optax.apply_updates(weights, updates))
        return step + 1, state, *[new[n] for n in grads]

    reads = (counter, memory, *params, *[g for gs in grads.values() for g in gs])
    return Op(party, "update", reads, (counter, memory, *params), run)


def execute(ops: Iterable[Op], env: dict) -> None:
    """Run operations in order, in a memory that holds what the first of them read."""
    for op in ops:
        env.update(zip(op.writes, op.run(*[env[r] for r in op.reads]), strict=True))


class Turn(NamedTuple):
    """What one party does between two messages: one function from `reads` to `writes`."""

    party: str
    ops: tuple[Op, ...]
    reads: tuple[Name | Wire, ...]
    writes: tuple[Name | Wire, ...]

    def run(self, *values: PyTree) -> tuple:
        env = dict(zip(self.reads, values, strict=True))
        execute(self.ops, env)
        return tuple(env[w] for w in self.writes)


def turns(ops: Sequence[Op], keep: Iterable[Name | Wire]) -> list[Turn]:
    """Cut a walk into turns, each as long as it can be; `keep` is what must be left at the end.

    An operation waits for every earlier one that writes what it reads, or touches what it writes."""
    before: list[set[int]] = []
    for j, op in enumerate(ops):
        before.append({
            i for i, o in enumerate(ops[:j])
            if {*o.writes} & {*op.reads, *op.writes} or {*o.reads} & {*op.writes}
        })  # fmt: skip
    done: set[int] = set()
    groups: list[list[int]] = []
    while len(done) < len(ops):
        first = next(j for j in range(len(ops)) if j not in done and before[j] <= done)
        group: list[int] = []
        for j in range(first, len(ops)):
            if j not in done and ops[j].party == ops[first].party and before[j] <= done:
                group.append(j)
                done.add(j)
        groups.append(group)
    made: list[Turn] = []
    later = set(keep)
    for group in reversed(groups):
        own = tuple(ops[j] for j in group)
        written = dict.fromkeys(w for op in own for w in op.writes)
        reads: dict = {}
        seen: set = set()
        for op in own:
            reads.update(dict.fromkeys(r for r in op.reads if r not in seen))
            seen.update(op.writes)
        made.append(Turn(own[0].party, own, tuple(reads), tuple(w for w in written if w in later)))
        later = (later - written.keys()) | reads.keys()
    return made[::-1]
