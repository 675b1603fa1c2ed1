"""One training step traced on shapes, operation by operation: what `cost` adds up.

Nothing is allocated; each operation is a function that an interpreter would
run.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Var

from jsplit.core.base import Message, PyTree, TrainState
from jsplit.core.trees import abstract, nbytes
from jsplit.costing.party_cost import NOTHING, Work
from jsplit.jaxprs.macs import macs
from jsplit.training.config import Config
from jsplit.training.crossing import message_of
from jsplit.training.kinds import FROZEN, Kind, OpKind
from jsplit.training.nonfinite import hold
from jsplit.training.step import inference_ops
from jsplit.training.store import Store, layout_of, load
from jsplit.training.sums import zero_sums
from jsplit.training.walk import Name, Op, Wire, turns
from jsplit.training.walks import step_ops

_Sizes = dict[Hashable, int]
_Leaf = tuple[Name | Wire, int, jax.ShapeDtypeStruct]
"""The name of something read, and the number and shape of one of its leaves."""


class Traced(NamedTuple):
    """One operation on shapes.

    Attributes:
        op: The operation.
        work: Its work in a step, in all micro-batches.
        kept: Bytes of each array that it leaves for the backward pass.
    """

    op: Op
    work: Work
    kept: Mapping[Hashable, int]


class TracedStep:
    """A training step traced operation by operation: its work, memory and messages.

    Attributes:
        traced: The operations in order.
        messages: The messages in order.

    Args:
        config: The step's configuration, with its backward mode.
        state: The shapes of all parties' state.
        batch: The shapes of the fields.
    """

    def __init__(self, config: Config, state: TrainState, batch: Mapping[str, PyTree]):
        self.traced: list[Traced] = []
        self.messages: list[Message] = []
        self._fields = config.topology.fields
        count = config.microbatches
        part = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (x.shape[0] // count, *x.shape[1:]), x.dtype
            ),
            dict(batch),
        )
        self.store: Store = load(layout_of(config), state, part)
        ops, finish = step_ops(config)
        hold(layout_of(config), self.store, config.nonfinite)
        if count > 1:
            self.store |= {
                Name(p, Kind.MICRO): jax.ShapeDtypeStruct((), jnp.int32)
                for p in config.topology.parties
            }
            # Traced, so that no sum is allocated.
            self.store |= jax.eval_shape(
                lambda store: zero_sums(ops, store), self.store
            )
        # In the order in which parties that exchange messages run them, so that the
        # messages come in the order in which `jsplit.messages` records them.
        for turn in turns(ops, ()):
            for op in turn.ops:
                self._trace(op, count)
        # All micro-batches are alike: one is traced, and counted as often as there are.
        self.messages *= count
        for turn in turns(finish, ()):
            for op in turn.ops:
                self._trace(op, 1)

    def _trace(self, op: Op, times: int) -> None:
        traced = jax.jit(op.run).trace(*[self.store[r] for r in op.reads])
        results = [abstract(x) for x in traced.out_info]
        self.store.update(zip(op.writes, results, strict=True))
        jaxpr = traced.jaxpr.jaxpr
        flops = (traced.lower().cost_analysis() or {}).get("flops", 0.0)  # type: ignore[union-attr]
        # XLA counts the body of a loop once, whatever the number of its turns.
        flops += 2 * (macs(jaxpr) - macs(jaxpr, once=True))
        work = Work(macs(jaxpr), flops).times(times)
        self.traced.append(Traced(op, work, self._left(op, jaxpr, results)))
        self.messages += [
            message_of(name, x)
            for name, x in zip(op.writes, results, strict=True)
            if isinstance(name, Wire)
        ]

    def _left(self, op: Op, jaxpr: Jaxpr, results: Sequence[PyTree]) -> _Sizes:
        """The arrays that the vjp which `op` leaves keeps until the backward pass.

        Returns:
            Bytes by array. An array that is a value too goes by the place
            of the value, so it counts once however many vjps keep it; a new
            one by its variable.
        """
        given = [
            (name, i, x)
            for name in op.reads
            for i, x in enumerate(jax.tree.leaves(self.store[name]))
        ]
        placed: dict[Var, Hashable] = {}
        for var, (name, i, _) in zip(jaxpr.invars, given, strict=True):
            if name.kind == Kind.VALUE:
                placed[var] = (name, i)

        left: dict[Hashable, int] = {}
        # Results are flattened one after the other, in the order of `op.writes`; the
        # value of a segment comes before its vjp, so it has its place by then.
        outs = iter(jaxpr.outvars)
        for name, result in zip(op.writes, results, strict=True):
            own = list(islice(outs, len(jax.tree.leaves(result))))
            if name.kind == Kind.VALUE:
                for i, var in enumerate(own):
                    # What is no variable is a constant of the program.
                    if isinstance(var, Var):
                        placed[var] = (name, i)
            elif name.kind == Kind.VJP:
                for var in own:
                    if isinstance(var, Var):
                        left[placed.get(var, var)] = nbytes(var.aval)
                left |= self._put_back(given, result.places)
        return left

    def _put_back(self, given: Sequence[_Leaf], places: Sequence[int | None]) -> _Sizes:
        """The fields that a `Pullback` leaves out, and needs when it is called.

        The parameters among what it leaves out are there anyway.
        """
        # In the order in which the forward operation hands them to `Pullback.of`.
        had = [
            leaf
            for leaf in given
            if leaf[0].kind in (Kind.PARAMS, *FROZEN)
            or (leaf[0].kind == Kind.VALUE and leaf[0].what in self._fields)
        ]
        needed = [had[place] for place in places if place is not None]
        return {(r, i): nbytes(x) for r, i, x in needed if r.kind == Kind.VALUE}

    def work(self, party: str, *kinds: OpKind) -> Work:
        """All work of a party in operations of these kinds."""
        own = (t for t in self.traced if t.op.party == party and t.op.kind in kinds)
        return sum((t.work for t in own), NOTHING)

    def kept(self, party: str) -> int:
        """Bytes that a party keeps for the backward pass, each array once."""
        sizes: dict[Hashable, int] = {}
        for t in self.traced:
            if t.op.party == party:
                sizes.update(t.kept)
        return sum(sizes.values())


def evaluation_messages(
    config: Config, state: TrainState, batch: Mapping[str, PyTree]
) -> tuple[Message, ...]:
    """The messages of one batch in inference mode, with what losses and metrics read.

    Args:
        config: The configuration.
        state: The shapes of all parties' state.
        batch: The shapes of the fields.
    """
    topology = config.topology
    store: Store = load(layout_of(config), state, batch)
    found: list[Message] = []
    for turn in turns(inference_ops(config, topology.losses, topology.metrics), ()):
        for op in turn.ops:
            # Nothing that crosses depends on the value of a loss.
            if op.kind is OpKind.LOSS:
                continue
            results = jax.eval_shape(op.run, *[store[r] for r in op.reads])
            store.update(zip(op.writes, results, strict=True))
            found += [
                message_of(name, x)
                for name, x in zip(op.writes, results, strict=True)
                if isinstance(name, Wire)
            ]
    return tuple(found)
