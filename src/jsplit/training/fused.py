"""The whole step of all parties in one `jit`: for simulation, and for training on one machine.

Every crossing still goes through its link, so the numbers are those of
parties that exchange messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, PyTree, TrainState
from jsplit.core.donation import call_on_state, step_of
from jsplit.core.secret_keys import words_of_call
from jsplit.core.trainer import PredictFn, StepFn, Trainer
from jsplit.core.trees import as_arrays, batch_of
from jsplit.jaxprs.compiling import jit
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
from jsplit.training.keys_apart import Apart, apart_of, swap
from jsplit.training.left_out import Weight, as_checked, filled, normalise_weight
from jsplit.training.losses import info_of
from jsplit.training.meshes import check_even, one_mesh, placed, with_batch_sharding
from jsplit.training.microbatches import run_microbatches
from jsplit.training.nonfinite import all_measured, all_watched, hold
from jsplit.training.own_reads import training_fields
from jsplit.training.passing import by_shapes, init_of
from jsplit.training.places import At, as_at, values_at, walk_to
from jsplit.training.recording import Recorded, told
from jsplit.training.same_for_others import check_same_for_others
from jsplit.training.signatures import documented_as
from jsplit.training.step_numbers import SECONDS, no_seconds
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.strengths import in_store, within_limits
from jsplit.training.verdicts import Verdict, check_donation
from jsplit.training.walk import Name, Store, execute
from jsplit.training.walks import Walks, walks_of


def fused(
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
    """Train a topology with each step compiled as one program.

    Equals `messages`, and training the whole model with the same
    optimizer on each part, to float tolerance.

    Args:
        topology: who computes what.
        optimizer: one optax optimizer per party that owns parameters,
            over those of all its nodes; or one for all, each party with
            a state of its own. One that looks at all parameters
            together sees those of its party alone; see
            `jsplit.clip_by_global_norm` and `jsplit.with_loss`.
        links: by the name of a value that crosses, what happens to it:
            one `Link` for the activation and for its cotangent, or a
            pair (activation, cotangent), either of which may be `None`.
            By default values cross as they are.
        backward: `"residuals"` keeps what the forward pass computed
            until the backward pass; `"recompute"` keeps a segment's
            inputs only, and computes the rest again with the same key,
            parameters and state. Both give the same gradients.
        microbatches: how many equal parts a batch is divided into;
            gradients and losses are their mean, statistics are updated
            part after part. Equal to the full batch where nothing mixes
            examples (BatchNorm, a contrastive loss) or draws random numbers.
        mesh: devices over which the batch is spread, along all axes of
            the mesh; parameters lie on each. The numbers are those of
            one device: statistics are of the whole batch. In training
            the devices must divide the batch; in inference a batch that
            they do not divide is computed by each.
        kernels: how operations are computed on a CPU, where XLA runs
            some very slowly: `"fast"` in the form that is fastest there,
            `"xla"` as XLA does. Both give the same to rounding; on other
            devices, and with a `mesh`, they are one.
        nonfinite: what becomes of a step that leaves NaN or infinity in a
            loss, parameters, statistics, an optimizer's state or a link's
            memory, or whose loss has a class number out of range:
            `"refuse"` raises, naming the step, the values and the parties,
            and waits for the end of each step to know; `"skip"` leaves all
            of that as it was, and counts the step; `"allow"` goes on. All
            but the last tell in `info.finite`; within a program of your
            own, as `jax.lax.scan` over steps, that is all `"refuse"` does.
        donate: whether a step uses up the state that it is given, so that
            no second copy of parameters and optimizer state is in memory.
            A step that is interrupted then leaves none, and one that were
            refused would: `nonfinite` must be "skip" or "allow".
        loss_scale: a number or a `DynamicScale`, for models in float16: by it
            cotangents are multiplied where they begin, and gradients divided.
            With a dynamic one, steps that overflow are skipped.

    Returns:
        A `Trainer`.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="sum")
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.fused(topology, {})
        >>> state = trainer.init(0, {"x": jnp.ones((4, 3)), "label": jnp.ones(4)})
        >>> trainer.predict(state, {"x": jnp.ones((2, 3))})["sum"].shape
        (2,)
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
    return fused_trainer(config)


def fused_trainer(config: Config) -> Trainer:
    """The trainer of a configuration; of its own kind whatever has made that."""
    topology, microbatches = config.topology, config.microbatches
    layout = layout_of(config)
    devices = one_mesh(config)
    scalars = ScalarLosses()
    train, measure, infer, judge, judge_losses = _programs(scalars.watch(config))
    needed, inputs = training_fields(config), fields_of(topology, losses=False)
    measured = fields_of(topology, losses=True, metrics=True)
    drawing = secret_senders(config, train=False)

    @documented_as(StepFn)
    def step(
        state: TrainState, batch: Fields, weight: ArrayLike | None = None
    ) -> tuple[TrainState, Info]:
        weight = None if weight is None else as_checked(weight, batch)
        batch = as_arrays(batch)
        size = check_batch(topology, batch, needed, microbatches, weight)
        # Without a mesh nothing is moved, and nothing is called to find
        # that out.
        if devices is not None:
            check_even(config, size)
            state, batch, weight = placed(devices, state, batch, weight)
        kept = apart_of(layout, state)
        new, info = call_on_state(
            state, train, swap(layout, state), kept, dict(batch), weight
        )
        finite = (info.info if config.records else info).finite
        judge(finite, lambda: step_of(new))
        return swap(layout, new, kept), info

    def measure_one(
        state: TrainState, batch: Fields, weight: Weight | None, noise: PyTree
    ) -> tuple[Info, Mapping[Name, PyTree]]:
        check_batch(topology, batch, measured, weight=weight)
        state, batch, weight = placed(devices, state, batch, weight)
        given = swap(layout, state), apart_of(layout, state), batch, weight, noise
        info, found = call_on_state(state, measure, *given)
        judge_losses(info.finite)
        return info, found

    @documented_as(PredictFn)
    def predict(
        state: TrainState,
        fields: Fields,
        at: str | Sequence[str] | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> dict[str, PyTree]:
        fields, run = as_arrays(fields), infer(as_at(topology, at))
        check_batch(topology, fields, inputs)
        words = words_of_call(noise, drawing, state, fields)
        state, fields, _ = placed(devices, state, fields, None)
        given = swap(layout, state), apart_of(layout, state), fields, words
        return call_on_state(state, run, *given)

    init = init_of(config, check_same_for_others)
    evaluate = evaluator(topology, measure_one, scalars, drawing)
    made = Trainer(init, step, evaluate, predict, config, fused_trainer)
    return within_limits(config, made)


class _Programs(NamedTuple):
    """The compiled programs of a trainer, of (state, keys, batch, ...) each.

    `infer` gives that of what `predict` is asked for.
    `judge` looks at what the first one leaves, `judge_losses` at what the second gives.
    """

    train: Callable[..., tuple[TrainState, PyTree]]
    measure: Callable[..., tuple[Info, dict[Name, PyTree]]]
    infer: Callable[[At], Callable[..., dict[str, PyTree]]]
    judge: Verdict
    judge_losses: Verdict


def _programs(config: Config) -> _Programs:
    """Compile each walk as one program."""
    if SECONDS in config.records:
        raise no_seconds("a step of jsplit.fused")
    topology, layout = config.topology, layout_of(config)
    walked = with_batch_sharding(config)
    walks, kernels = walks_of(walked), config.kernels
    judge = Verdict(config.nonfinite, all_watched(config))
    judge_losses = Verdict(config.nonfinite, all_measured(config))
    passing_for = by_shapes(config)

    # Within a trace, where shapes are known, and with them what nobody reads.
    def walks_for(batch: Fields) -> Walks:
        # Of many clients it is known already, from one of them.
        known = config.passing or passing_for(batch)
        return walks_of(walked._replace(passing=known))

    def start(
        state: TrainState,
        kept: Apart,
        batch: Fields,
        weight: Weight | None = None,
        noise: PyTree = None,
    ) -> Store:
        batch, share = filled(weight, batch), normalise_weight(weight)
        return load(layout, swap(layout, state, kept), batch, share, noise)

    def losses_in(store: Store) -> Info:
        losses = {n.what: store[n] for n in walks.losses}
        return info_of(topology, losses, in_store(topology, store))

    def train(
        state: TrainState, kept: Apart, batch: Fields, weight: Weight | None
    ) -> tuple[TrainState, Info | Recorded]:
        store, walks = start(state, kept, batch, weight), walks_for(batch)
        hold(layout, store, config.nonfinite)
        if config.microbatches == 1:
            execute(walks.train.ops, store)
        else:
            run_microbatches(walked, walks, store)
            execute(walks.finish.ops, store)
        info = losses_in(store)._replace(finite=judge.finite(store))
        told_of = told(config, walks, store, info, batch_of(batch))
        return swap(layout, save_back(layout, store)), told_of

    def measure(
        state: TrainState,
        kept: Apart,
        batch: Fields,
        weight: Weight | None,
        noise: PyTree,
    ) -> tuple[Info, dict[Name, PyTree]]:
        store = start(state, kept, batch, weight, noise)
        execute(walks_for(batch).measure.ops, store)
        info = losses_in(store)._replace(finite=judge_losses.finite(store))
        return info, {name: store[name] for name in walks.observed}

    @cache
    def infer(at: At) -> Callable[..., dict[str, PyTree]]:
        def run(
            state: TrainState, kept: Apart, fields: Fields, noise: PyTree
        ) -> dict[str, PyTree]:
            store = start(state, kept, fields, noise=noise)
            execute(walk_to(topology, walks_for(fields), at).ops, store)
            return values_at(topology, at, store)

        return jit(run, kernels)

    return _Programs(
        # Only the state is donated: the caller may use keys and batch again.
        jit(train, kernels, donate_argnums=0 if config.donate else ()),
        jit(measure, kernels),
        infer,
        judge,
        judge_losses,
    )
