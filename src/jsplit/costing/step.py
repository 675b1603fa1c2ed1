"""What a training step costs each party, before anything runs: arithmetic, bytes sent, memory kept.

Every operation of the walk is traced on shapes alone, so a network of any size is costed in seconds and
no weight is allocated. The numbers are those of the functions that an interpreter would run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Jaxpr, Var

from jsplit.core.base import Link, Message, PyTree, TrainState
from jsplit.core.trees import abstract, batch_of, nbytes
from jsplit.costing.records import MODES, NOTHING, Cost, PartyCost, Work
from jsplit.jaxprs.macs import macs
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import Optimizers, check_batch, configure, fields_of
from jsplit.training.crossing import message_of
from jsplit.training.initial import initial_shapes
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.step import training_ops
from jsplit.training.store import Store, layout_of, load
from jsplit.training.update import accumulate_ops, update_ops, zero_sums
from jsplit.training.walk import Name, Op, Wire, turns

if TYPE_CHECKING:
    pass


def cost(
    topology: Topology,
    batch: Mapping[str, PyTree],
    *,
    optimizer: Optimizers | None = None,
    links: Mapping[str, Link | tuple[Link | None, Link | None]] | None = None,
    microbatches: int = 1,
) -> Cost:
    """What one training step costs each party, from shapes alone.

    Its messages equal those that `jsplit.messages` records, and its work, summed over parties, is the whole model's.

    Args:
        topology: who computes what. Its segments may come from a model without values (`nnx.eval_shape`).
        batch: the fields, arrays or `jax.ShapeDtypeStruct`, each [batch, ...].
        optimizer, links, microbatches: as for `jsplit.fused`; without an optimizer, plain SGD, which keeps nothing.

    Returns:
        A `Cost`: by party, for both backward modes. `print` shows a table, `figure` draws bars.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    def configured(mode: str) -> Config:
        return configure(
            topology,
            optax.sgd(1.0) if optimizer is None else optimizer,
            links,
            mode,
            microbatches,
        )

    check_batch(
        topology,
        batch,
        fields_of(topology, losses=True),
        configured(MODES[0]).microbatches,
    )
    shapes = {name: abstract(x) for name, x in batch.items()}
    state = initial_shapes(configured(MODES[0]), shapes)
    walks = {mode: Walk(configured(mode), state, shapes) for mode in MODES}
    first, sent = walks[MODES[0]], walks[MODES[0]].messages

    def party(name: str) -> PartyCost:
        own = state.parties[name]
        return PartyCost(
            forward=first.work(name, "forward"),
            backward={
                mode: walk.work(name, "backward") for mode, walk in walks.items()
            },
            other=first.work(name, "other"),
            sent=sum(m.bytes + m.frame for m in sent if m.sender == name),
            received=sum(m.bytes + m.frame for m in sent if m.receiver == name),
            params=nbytes(own.params),
            statistics=nbytes(own.state),
            optimizer=nbytes(own.optimizer),
            links=nbytes(own.links),
            activations={mode: walk.kept(name) for mode, walk in walks.items()},
        )

    def again(size: int) -> Cost:
        resized = {
            n: jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), s
            )
            for n, s in shapes.items()
        }
        return cost(
            topology,
            resized,
            optimizer=optimizer,
            links=links,
            microbatches=microbatches,
        )

    return Cost(
        batch_of(shapes),
        {p: party(p) for p in topology.parties},
        tuple(sent),
        state,
        cache(again),
    )


class _Traced(NamedTuple):
    """One operation on shapes: its work in a step, and the size of each array that it leaves for the backward pass."""

    op: Op
    kind: str
    work: Work
    kept: Mapping[Any, int]


class Walk:
    """A training step traced operation by operation on shapes: the work, what is kept, and what is sent."""

    def __init__(self, config: Config, state: TrainState, batch: Mapping[str, PyTree]):
        self.traced: list[_Traced] = []
        self.messages: list[Message] = []
        self.fields = config.topology.fields
        count = config.microbatches
        part = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (x.shape[0] // count, *x.shape[1:]), x.dtype
            ),
            dict(batch),
        )
        self.env: Store = load(layout_of(config), state, part)
        ops = training_ops(config)
        if count > 1:
            self.env |= {
                Name(p, Kind.MICRO): jax.ShapeDtypeStruct((), jnp.int32)
                for p in config.topology.parties
            }
            ops += accumulate_ops(config)
            # Traced, so that no sum is allocated.
            self.env |= jax.eval_shape(lambda env: zero_sums(ops, env), self.env)
        for turn in turns(
            ops, ()
        ):  # the order in which parties that exchange messages run them
            for op in turn.ops:
                self.trace(op, count)
        self.messages *= count
        for op in update_ops(config):
            self.trace(op, 1)

    def trace(self, op: Op, times: int) -> None:
        traced = jax.jit(op.run).trace(*[self.env[r] for r in op.reads])
        results = [abstract(x) for x in traced.out_info]
        self.env.update(zip(op.writes, results, strict=True))
        jaxpr = traced.jaxpr.jaxpr
        flops = (traced.lower().cost_analysis() or {}).get("flops", 0.0)  # type: ignore[union-attr]
        flops += 2 * (macs(jaxpr) - macs(jaxpr, once=True))
        work = Work(macs(jaxpr), flops).times(times)
        kind = op.kind if op.kind in (OpKind.FORWARD, OpKind.BACKWARD) else "other"
        self.traced.append(_Traced(op, kind, work, self.left(op, jaxpr, results)))
        self.messages += [
            message_of(name, x)
            for name, x in zip(op.writes, results, strict=True)
            if isinstance(name, Wire)
        ]

    def left(self, op: Op, jaxpr: Jaxpr, results: Sequence[PyTree]) -> dict[Any, int]:
        """What stays until the backward pass for the sake of the vjp that `op` leaves: new arrays, values that came in.

        An array that is at once a residual and a value is one, by the place of the value."""
        given = [
            (r, i, x)
            for r in op.reads
            for i, x in enumerate(jax.tree.leaves(self.env[r]))
        ]
        place: dict[Any, Any] = {
            v: (r, i)
            for v, (r, i, _) in zip(jaxpr.invars, given, strict=True)
            if r.kind == "value"
        }
        outs, left = iter(jaxpr.outvars), {}
        for name, result in zip(op.writes, results, strict=True):
            own = list(enumerate(islice(outs, len(jax.tree.leaves(result)))))
            if name.kind == "value":
                place |= {v: (name, i) for i, v in own if isinstance(v, Var)}
            if name.kind == "vjp":
                left |= {
                    place.get(v, v): nbytes(v.aval)
                    for _, v in own
                    if isinstance(v, Var)
                }
                held = [
                    g
                    for g in given
                    if g[0].kind == "params"
                    or (g[0].kind == "value" and g[0].what in self.fields)
                ]
                needed = [
                    held[k] for k in result.places if k is not None
                ]  # what a Pullback puts back
                left |= {(r, i): nbytes(x) for r, i, x in needed if r.kind == "value"}
        return left

    def work(self, party: str, kind: str) -> Work:
        return sum(
            (t.work for t in self.traced if t.op.party == party and t.kind == kind),
            NOTHING,
        )

    def kept(self, party: str) -> int:
        return sum(
            {
                k: size
                for t in self.traced
                if t.op.party == party
                for k, size in t.kept.items()
            }.values()
        )
