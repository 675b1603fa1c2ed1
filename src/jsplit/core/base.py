"""The whole vocabulary: a `Segment` computes, a `Link` carries, a `Trainer` trains.

Everything else in jsplit takes and returns these three records, so that whatever is
built from them composes. This file imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import jax
import jax.numpy as jnp

CUT = "jsplit.cut/"
MODULE = "jsplit.module/"
"""Prefixes of the names that marked values, and the outputs of submodules, carry while a model is traced."""

PyTree = Any
Params = PyTree
State = PyTree


class Init(Protocol):
    """`init(key, *inputs) -> (params, state)`; only the shapes and dtypes of `inputs` matter."""

    def __call__(self, key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]: ...


class Apply(Protocol):
    """`apply(params, state, key, *inputs, train=True) -> (output, new_state)`, a pure function."""

    def __call__(
        self, params: Params, state: State, key: jax.Array | None, /, *inputs: PyTree, train: bool = True
    ) -> tuple[PyTree, State]: ...


@dataclass(frozen=True)
class Segment:
    """A pure function with parameters of its own: the part of a network that one party runs.

    Made by `jsplit.segment` from a Flax module or a function, by `jsplit.split` from a part of a
    whole model, or by hand; nothing that uses a segment can tell which.

    Attributes:
        init: `init(key, *inputs) -> (params, state)`.
        apply: `apply(params, state, key, *inputs, train=True) -> (output, new_state)`. `state`
            holds what training changes without a gradient (BatchNorm statistics and the like), `key`
            feeds dropout and may be `None` where `train` is `False`.
        inputs: names of the positional inputs, if known. A `Node` reads the values of these names
            unless told otherwise.
        name: name of the value that the segment produces, if known.
        trainable: whether there may be parameters. A party that owns only segments without any needs no
            optimizer.
        shares_key: `False`: in a topology the segment gets a key of its own, so that two
            segments never draw the same dropout mask. `True`: it gets the step's key as it
            is, as all slices of one whole model must, for their masks to be the whole model's.
    """

    init: Init
    apply: Apply
    inputs: tuple[str, ...] | None = None
    name: str | None = None
    trainable: bool = True
    shares_key: bool = False

    def __repr__(self) -> str:
        return f"Segment({', '.join(self.inputs or ('...',))} -> {self.name or '...'})"


class Link(NamedTuple):
    """What happens to a value, or to a cotangent, on a crossing from one party to another.

    `decode(encode(value))` stands outside the differentiated function: the receiver computes with
    what it decoded, the sender with what it had.

    Attributes:
        init: `init(like) -> state`, the sender's memory (`()` if it needs none). One for every crossing and direction;
            in inference it starts anew.
        encode: `encode(state, value, key) -> (payload, state)`; the payload is what is sent. A cotangent has the structure
            of its value, with `None` for leaves that have none (integers).
        decode: `decode(payload, like) -> value`, of the shapes and dtypes of `like`, a tree of `jax.ShapeDtypeStruct`.
    """

    init: Callable[[PyTree], State]
    encode: Callable[[State, PyTree, jax.Array], tuple[PyTree, State]]
    decode: Callable[[PyTree, PyTree], PyTree]


def stateless(encode: Callable[[PyTree, jax.Array], PyTree], decode: Callable[[PyTree, PyTree], PyTree]) -> Link:
    """A `Link` without memory from `encode(value, key) -> payload` and `decode(payload, like) -> value`."""
    return Link(lambda like: (), lambda state, value, key: (encode(value, key), state), decode)


def chain(*links: Link) -> Link:
    """Links one after another: the payload of each is the value of the next.

    `chain()` sends values as they are; `chain(a)` is `a`; decoding runs in reverse.
    """

    def walk(like: PyTree) -> tuple[State, list[PyTree]]:
        states, likes = [], []
        for link in links:
            likes.append(like)
            states.append(link.init(like))
            like, _ = jax.eval_shape(link.encode, states[-1], like, jax.eval_shape(jax.random.key, 0))
        return tuple(states), likes

    def encode(state: State, value: PyTree, key: jax.Array) -> tuple[PyTree, State]:
        states = []
        for i, (link, s) in enumerate(zip(links, state, strict=True)):
            value, s = link.encode(s, value, jax.random.fold_in(key, i))
            states.append(s)
        return value, tuple(states)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        for link, shape in zip(reversed(links), reversed(walk(like)[1]), strict=True):
            payload = link.decode(payload, shape)
        return payload

    return links[0] if len(links) == 1 else Link(lambda like: walk(like)[0], encode, decode)


identity = chain()
"""The link of a crossing for which none is named: the value is sent as it is."""


def node_key(key: jax.Array, name: str, segment: Segment) -> jax.Array:
    """The key that `segment` reads as node `name`: `key` itself, or one folded from the name."""
    return key if segment.shares_key else jax.random.fold_in(key, crc32(name.encode()))


class Message(NamedTuple):
    """One crossing as it happened.

    Attributes:
        name: the value, as the topology names it.
        kind: `"activation"` (forward) or `"cotangent"` (back).
        sender, receiver: the two parties.
        shape, dtype: of what crossed, after its link encoded it; tuples of them where that is several arrays.
        bytes: its size.
        frame: bytes around it on a network, see `frame_bytes`; nothing in one process.
    """

    name: str
    kind: str
    sender: str
    receiver: str
    shape: tuple
    dtype: Any
    bytes: int
    frame: int


class PartyState(NamedTuple):
    """All that one party carries from step to step, and all that its checkpoint holds.

    Attributes:
        params: parameters, by node.
        state: BatchNorm statistics and other mutable collections, by node.
        optimizer: state of the party's one optimizer, over all its `params`.
        links: memory of the links this party sends through, by crossing.
        key: the seed key on which the parties agreed; randomness is a function of (key, step).
        step: number of steps taken, int32.
    """

    params: Mapping[str, Params]
    state: Mapping[str, State]
    optimizer: PyTree
    links: Mapping[str, State]
    key: jax.Array
    step: jax.Array


class TrainState(NamedTuple):
    """The state of every party. In one process they lie side by side; apart, each has only its own."""

    parties: Mapping[str, PartyState]


class Info(NamedTuple):
    """What a step is worth telling.

    Attributes:
        loss: sum of all losses, each times its weight.
        losses: every loss and metric before its weight, by name.
        messages: what crossed, in order; empty where the interpreter sends nothing.
    """

    loss: jax.Array
    losses: Mapping[str, jax.Array]
    messages: tuple[Message, ...] = ()


class Trainer(NamedTuple):
    """A way to train. All interpreters, and all algorithms over many clients, have this signature.

    Attributes:
        init: `init(key, batch) -> state`.
        step: `step(state, batch, weight=None) -> (state, info)`. `weight`, [batch], says how much each example counts in
            the mean that a loss takes; 0 leaves it out. The state that goes in is used up (its buffers are donated); go on
            with the one that comes out.
        evaluate: `evaluate(state, batch, weight=None) -> info`, in inference mode; changes nothing.
        predict: `predict(state, fields) -> {node: output}` for the nodes that no other node reads.
        config: what the trainer was asked for: topology, optimizers, links and modes.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Info]]
    evaluate: Callable[..., Info]
    predict: Callable[[TrainState, Mapping[str, PyTree]], Mapping[str, PyTree]]
    config: Any = None


def shapes_of(tree: PyTree) -> PyTree:
    """The shapes and dtypes of a pytree of arrays, as `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def follow(reads: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """The names in the order given, but each after those it reads."""
    order: list[str] = []
    while left := [n for n in reads if n not in order]:
        ready = [n for n in left if not any(i in left for i in reads[n])]
        if not ready:
            while loose := [n for n in left if not any(n in reads[m] for m in left)]:
                left = [n for n in left if n not in loose]
            raise ValueError(f"{what} {', '.join(f'`{n}`' for n in left)} read each other's values in a circle.")
        order.append(ready[0])
    return order


def nbytes(tree: PyTree) -> int:
    """The size of a pytree of arrays, or of their shapes; a PRNG key counts as what it is made of."""

    def size(x: Any) -> int:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.eval_shape(jax.random.key_data, x)
        return x.size * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def frame_bytes(payload: PyTree) -> int:
    """The size of the frame around a message: which message it is, and the dtype and shape of each of its arrays.

    96 bytes (protocol and version, run, epoch, sender, receiver, step, micro-batch, kind, value, sizes, checksum), and for each
    array 8 and 8 for each axis. What gRPC, TLS and TCP add below is not counted.
    """
    return 96 + sum(8 + 8 * len(x.shape) for x in jax.tree.leaves(payload))


def said(shapes: PyTree) -> str:
    """Shapes and dtypes in words: `float32[8,3]`, several in the order of their leaves."""
    return " and ".join(f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in jax.tree.leaves(shapes)) or "nothing"


def reason(error: Exception) -> str:
    """Kind and first line of an error that somebody else's code raised."""
    return ": ".join(filter(None, (type(error).__name__, str(error).strip().partition("\n")[0])))


def positive(name: str, value: Any) -> int:
    """The argument `name` as a plain integer from 1 on."""
    try:
        found = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        found = 0
    if found < 1:
        got = f"an array of shape {jnp.shape(value)}" if getattr(value, "shape", ()) else repr(value)
        raise ValueError(f"`{name}` must be a positive integer, got {got}.")
    return found


def batch_of(fields: Mapping[str, PyTree]) -> int:
    """The length of the leading axis that all arrays of all fields share."""
    sizes: dict[str, Any] = {}
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            shape = jnp.shape(x)
            if not shape and isinstance(value, (list, tuple)):
                raise ValueError(f"`{name}` must be an array, got a {type(value).__name__}; make one by np.asarray.")
            if not shape:
                raise ValueError(f"`{name}` has no batch axis: it is a scalar; the leading axis of each value is the batch.")
            if sizes.setdefault(name, shape[0]) != shape[0]:
                raise ValueError(f"batch axes differ: `{name}` has {sizes[name]} and {shape[0]} examples.")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batch axes differ: {', '.join(f'`{n}` has {s}' for n, s in sizes.items())} examples.")
    size = next(iter(sizes.values()), None)
    if size is None or (isinstance(size, int) and size < 1):
        raise ValueError(f"the batch is empty: {', '.join(f'`{n}`' for n in fields) or 'no field'} has no examples.")
    return size
