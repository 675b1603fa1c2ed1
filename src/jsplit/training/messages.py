"""Party by party: each runs its own jitted turns, and what crosses is an explicit message.

All parties live in one process here, but every turn is a function of
what its party has and has been sent, of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import jax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, Message, PyTree, TrainState
from jsplit.core.donation import call_on_state, step_of
from jsplit.core.secret_keys import words_of_call
from jsplit.core.trainer import PredictFn, StepFn, Trainer
from jsplit.core.trees import as_arrays
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import (
    Links,
    Optimizers,
    check_batch,
    configure,
    fields_of,
)
from jsplit.training.crossing import secret_senders
from jsplit.training.dynamic_scale import LossScale
from jsplit.training.evaluating import ScalarLosses, evaluator
from jsplit.training.executor import InProcess, Recorder
from jsplit.training.left_out import Weight, as_checked, fill, normalise_weight
from jsplit.training.meshes import check_even, combined
from jsplit.training.nonfinite import all_measured, all_watched
from jsplit.training.own_reads import training_fields
from jsplit.training.party_programs import by_shapes
from jsplit.training.passing import init_of
from jsplit.training.places import as_at, values_at
from jsplit.training.processes import several_processes, tell_all
from jsplit.training.recording import Tape, told
from jsplit.training.same_for_others import check_same_for_others
from jsplit.training.signatures import documented_as
from jsplit.training.step_numbers import CROSSED
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.strengths import (
    in_store,
    in_topology,
    within_limits,
)
from jsplit.training.verdicts import Verdict, check_donation
from jsplit.training.walk import Name
from jsplit.training.walks import walks_of


def messages(
    topology: Topology,
    optimizer: Optimizers,
    *,
    links: Links | None = None,
    backward: str = "residuals",
    microbatches: int = 1,
    mesh: Mesh | Mapping[str, Mesh] | None = None,
    kernels: str = "fast",
    nonfinite: str | None = None,
    donate: bool = False,
    loss_scale: LossScale | None = None,
) -> Trainer:
    """Train a topology party by party, with every activation and cotangent sent explicitly.

    Equals `fused` to float tolerance. `info.messages` of every call
    lists what crossed: name, kind, sender, receiver, shape, dtype and
    the bytes of the payload.

    Args:
        topology: who computes what.
        optimizer: one optax optimizer per party that owns parameters,
            over those of all its nodes; or one for all, each party with
            a state of its own.
        links: by the name of a value that crosses, what happens to it:
            one `Link` for the activation and for its cotangent, or a
            pair (activation, cotangent), either of which may be `None`.
        backward: `"residuals"` keeps what the forward pass computed
            until the backward pass; `"recompute"` keeps a segment's
            inputs only, and computes the rest again. Both give the same
            gradients.
        microbatches: how many equal parts a batch is divided into;
            gradients and losses are their mean, statistics are updated
            part after part.
        mesh: by party, the devices over which it spreads what it
            computes along the batch; a party without a mesh computes on
            the default device, and what crosses moves from one's
            devices to the other's. One mesh alone is every party's.
        kernels: how operations are computed on a CPU, as for `fused`.
        nonfinite: what becomes of a step that leaves NaN or infinity, as
            for `fused`. To skip one, all parties exchange how many such
            values they found.
        donate: whether a step uses up the parameters and optimizer states
            that it is given; `nonfinite` must then be "skip" or "allow".
        loss_scale: by what cotangents are multiplied, as for `fused`.

    Returns:
        A `Trainer`.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.messages(topology, {})
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> info = trainer.evaluate(trainer.init(0, batch), batch)
        >>> [(m.sender, m.kind, m.receiver, m.bytes) for m in info.messages]
        [('client', 'activation', 'server', 48)]
    """
    config = configure(
        topology,
        optimizer,
        links,
        backward,
        microbatches,
        mesh,
        kernels,
        nonfinite,
        donate,
        loss_scale,
    )
    check_donation(config)
    return messages_trainer(config)


def messages_trainer(config: Config) -> Trainer:
    """The trainer of a configuration; of its own kind whatever has made that."""
    topology, microbatches = config.topology, config.microbatches
    scalars = ScalarLosses()
    layout, walks = layout_of(config), walks_of(config)
    programs_for = by_shapes(scalars.watch(config), layout)
    needed, inputs = training_fields(config), fields_of(topology, losses=False)
    measured = fields_of(topology, losses=True, metrics=True)
    strong, drawing = bool(in_topology(topology)), secret_senders(config, train=False)
    # All processes judge alike: one that went on alone would wait for the others.
    several = several_processes(config.mesh)
    combine, judge = combined(config), Verdict(config.nonfinite, all_watched(config))
    judge_losses = Verdict(config.nonfinite, all_measured(config))
    # Records of messages by their shapes: a trainer makes each once,
    # not in every step.
    known: dict[tuple, Message] = {}

    @documented_as(StepFn)
    def step(
        state: TrainState, batch: Fields, weight: ArrayLike | None = None
    ) -> tuple[TrainState, Info]:
        weight = None if weight is None else as_checked(weight, batch)
        batch = as_arrays(batch)
        size = check_batch(topology, batch, needed, microbatches, weight)
        if config.mesh:
            check_even(config, size)
        counts = None
        if weight is not None:
            batch, counts = fill(weight, dict(batch)), normalise_weight(weight)
        carrier, programs = Recorder(known), programs_for(batch)
        tape = Tape(carrier) if config.records else None
        store, losses = call_on_state(
            state, programs.train, state, batch, counts, tape or carrier
        )
        finite = judge.finite(store)
        finite = tell_all(finite) if several else finite
        info = combine(losses, in_store(topology, store) if strong else {})
        info = info._replace(messages=tuple(carrier.messages), finite=finite)
        new = save_back(layout, store)
        judge(finite, lambda: step_of(new))
        if tape is not None:
            if CROSSED in config.records:
                store.update(programs.read(tape, load(layout, state)))
            # A trainer that records says so in its type; see `jsplit.record`.
            info = cast(Info, told(config, walks, store, info, size, tape.seconds))
        return new, info

    def measure_one(
        state: TrainState, batch: Fields, weight: Weight | None, noise: PyTree
    ) -> tuple[Info, Mapping[Name, PyTree]]:
        check_batch(topology, batch, measured, weight=weight)
        if weight is not None:
            batch = fill(weight, dict(batch))
        store = load(layout, state, batch, normalise_weight(weight), noise)
        carrier = Recorder(known)
        call_on_state(state, programs_for(batch).measure, store, carrier)
        losses = {n.what: store[n] for n in walks.losses}
        finite = judge_losses.finite(store)
        finite = tell_all(finite) if several else finite
        info = combine(losses, in_store(topology, store) if strong else {})
        info = info._replace(messages=tuple(carrier.messages), finite=finite)
        judge_losses(finite)
        return info, {name: store[name] for name in walks.observed}

    @documented_as(PredictFn)
    def predict(
        state: TrainState,
        fields: Fields,
        at: str | Sequence[str] | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> dict[str, PyTree]:
        fields, wanted = as_arrays(fields), as_at(topology, at)
        check_batch(topology, fields, inputs)
        words = words_of_call(noise, drawing, state, fields)
        # Nothing tells of messages here, so none is recorded.
        store = load(layout, state, fields, noise=words)
        call_on_state(state, programs_for(fields).infer(wanted), store, InProcess())
        return values_at(topology, wanted, store)

    init = init_of(config, check_same_for_others)
    evaluate = evaluator(topology, measure_one, scalars, drawing)
    made = Trainer(init, step, evaluate, predict, config, messages_trainer)
    return within_limits(config, made)
