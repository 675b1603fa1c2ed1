"""The whole vocabulary: a `Segment` computes, a `Link` carries, a `Trainer` trains.

Everything else in jsplit takes and returns these three records, so that whatever is
built from them composes. This file imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import jax

PyTree = Any
Params = PyTree
State = PyTree


class _Init(Protocol):
    """`init(key, *inputs) -> (params, state)`; only the shapes and dtypes of `inputs` matter."""

    def __call__(self, key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]: ...


class Apply(Protocol):
    """`apply(params, state, key, *inputs, train=True) -> (output, new_state)`, a pure function."""

    def __call__(
        self,
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
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

    init: _Init
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
