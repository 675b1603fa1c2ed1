"""The walks of a topology traced on shapes, as far as messages depend on them.

Each operation of each party becomes a jaxpr, once; `observing` goes over them for each
set of observers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from jsplit.core.base import Message, PyTree, TrainState
from jsplit.core.trees import abstract
from jsplit.jaxprs.flat import Flat, flatten
from jsplit.training.config import Config
from jsplit.training.crossing import message_of
from jsplit.training.kinds import Kind
from jsplit.training.nonfinite import hold
from jsplit.training.step import inference_ops
from jsplit.training.store import Store, layout_of, load
from jsplit.training.walk import Address, Op, Wire
from jsplit.training.walks import step_ops

RECORDS = 2
"""Proofs are of so few records: with one, a sum over the batch would be the record."""


class Part(NamedTuple):
    """One operation as a jaxpr.

    Attributes:
        op: the operation.
        flat: its function as a program, leaf by leaf.
        shapes: of its results, by where they lie.
    """

    op: Op
    flat: Flat
    shapes: dict[Address, list[jax.ShapeDtypeStruct]]


class Traced(NamedTuple):
    """A walk on shapes.

    Attributes:
        mode: "training" or "inference".
        start: shapes of what it starts from, leaf by leaf.
        parts: its operations in order.
    """

    mode: str
    start: dict[Address, list[jax.ShapeDtypeStruct]]
    parts: tuple[Part, ...]


def modes_of(config: Config) -> dict[str, list[Op]]:
    """By mode, the operations that messages depend on."""
    topology = config.topology
    # A step of several micro-batches sends the same messages for each.
    config = config._replace(microbatches=1)
    train, _ = step_ops(config)
    infer = inference_ops(config, topology.losses, topology.metrics)
    return {"training": _needed(train), "inference": _needed(infer)}


def _needed(ops: Sequence[Op]) -> list[Op]:
    """The operations that some message depends on."""
    wanted: set[Address] = set()
    found: list[Op] = []
    for op in reversed(ops):
        if any(isinstance(w, Wire) or w in wanted for w in op.writes):
            found.append(op)
            wanted.update(op.reads)
    return found[::-1]


def trace(
    config: Config, state: TrainState, batch: Mapping[str, PyTree]
) -> list[Traced]:
    """Trace a step and an inference, on shapes of few records.

    Args:
        config: of the training.
        state: shapes of all parties' state.
        batch: shapes of the fields, [RECORDS, ...].
    """
    found: list[Traced] = []
    for mode, ops in modes_of(config).items():
        store = _first(config, state, batch, ops)
        start = {name: jax.tree.leaves(x) for name, x in store.items()}
        parts: list[Part] = []
        for op in ops:
            args = [store[r] for r in op.reads]
            # A new function each time: `make_jaxpr` caches by identity.
            jaxpr, results = jax.make_jaxpr(
                lambda *args, run=op.run: run(*args), return_shape=True
            )(*args)
            store.update(zip(op.writes, results, strict=True))
            shapes = {w: jax.tree.leaves(store[w]) for w in op.writes}
            parts.append(Part(op, flatten(jaxpr, calls=True), shapes))
        found.append(Traced(mode, start, tuple(parts)))
    return found


def _first(
    config: Config, state: TrainState, batch: Mapping[str, PyTree], ops: Sequence[Op]
) -> Store:
    store = load(layout_of(config), state, batch)
    hold(layout_of(config), store, config.nonfinite)
    for name in (r for op in ops for r in op.reads):
        # Numbers that tell one call of inference from the next come from outside.
        if name.kind == "noise" and store.get(name) is None:
            store[name] = jax.ShapeDtypeStruct((2,), "uint32")
    return store


def messages(
    config: Config, state: TrainState, batch: Mapping[str, PyTree]
) -> dict[tuple[str, Wire], Message]:
    """By mode and message, its shape and bytes for batches of the user's size."""
    found: dict[tuple[str, Wire], Message] = {}
    for mode, ops in modes_of(config).items():
        store = _first(config, state, batch, ops)
        for op in ops:
            results = jax.eval_shape(op.run, *[store[r] for r in op.reads])
            store.update(zip(op.writes, results, strict=True))
            for name, x in zip(op.writes, results, strict=True):
                if isinstance(name, Wire):
                    found[mode, name] = message_of(name, x)
    return found


def few(batch: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The shapes of a few records of a batch."""

    def cut(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        size = min(RECORDS, x.shape[0])
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    return jax.tree.map(cut, abstract(dict(batch)))


KNOWN_TO_ALL = frozenset({Kind.KEY, Kind.STEP, Kind.WEIGHT, Kind.MICRO})
"""What all parties have: the seed, the number of the step, weights of examples."""
