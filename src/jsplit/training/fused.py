"""The whole step of all parties in one `jit`: for simulation, and for training on one machine.

Every crossing still goes through its link, so the numbers are those of parties that exchange messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jsplit.core.base import Info, PartyState, PyTree, TrainState
from jsplit.core.placement import replicate, shard_batch
from jsplit.core.trainer import Trainer
from jsplit.jaxprs.convolutions import convolves_on_cpu
from jsplit.topology.graph import Topology
from jsplit.training.configure import (
    Links,
    Optimizers,
    check_batch,
    configure,
    fields_of,
)
from jsplit.training.initial import initial_state
from jsplit.training.losses import info_of, normalise_weight
from jsplit.training.memory import apart, collect, place, places_of, together
from jsplit.training.meshes import check_even, one_mesh, with_batch_sharding
from jsplit.training.step import Config, inference_ops, training_ops
from jsplit.training.update import accumulate_ops, total, update_ops, zero_sums
from jsplit.training.walk import Name, execute


def fused(
    topology: Topology,
    optimizer: Optimizers,
    *,
    links: Links | None = None,
    backward: str = "residuals",
    microbatches: int = 1,
    mesh: Mesh | Mapping[str, Mesh] | None = None,
) -> Trainer:
    """Train a topology with each step compiled as one program.

    Equals `messages`, and training the whole model with the same optimizer on each part, to float tolerance.

    Args:
        topology: who computes what.
        optimizer: one optax optimizer per party that owns parameters, over those of all its nodes; or one
            for all, each party with a state of its own. One that looks at all parameters together, as
            `optax.clip_by_global_norm` does, sees those of its party alone.
        links: by the name of a value that crosses, what happens to it: one `Link` for the activation and for its
            cotangent, or a pair (activation, cotangent), either of which may be `None`. By default
            values cross as they are.
        backward: `"residuals"` keeps what the forward pass computed until the backward pass; `"recompute"` keeps a
            segment's inputs only, and computes the rest again with the same key, parameters and state. Both
            give the same gradients.
        microbatches: how many equal parts a batch is divided into; gradients and losses are their mean, statistics are
            updated part after part. Equal to the full batch where no segment mixes examples (BatchNorm) or draws
            random numbers.
        mesh: devices over which the batch is spread, along all axes of the mesh; parameters lie on each. The numbers are
            those of one device: statistics are of the whole batch. In training the devices must divide the batch; in
            inference a batch that they do not divide is computed by each.

    Returns:
        A `Trainer`. `step` donates the state that it is given.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    config = configure(topology, optimizer, links, backward, microbatches, mesh)
    devices, walked = one_mesh(config), with_batch_sharding(config)
    places = places_of(config)
    needed, inputs = fields_of(topology, losses=True), fields_of(topology, losses=False)

    def laid(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> tuple[TrainState, dict, Any]:
        return (
            replicate(state, devices),
            shard_batch(dict(batch), devices),
            shard_batch(weight, devices),
        )

    def start(
        state: TrainState, keys: _Keys, batch: Mapping[str, PyTree], weight: Any = None
    ) -> dict[Name, PyTree]:
        return together(
            place(places, _swap_keys(state, keys), batch, normalise_weight(weight))
        )

    def finish(env: dict[Name, PyTree]) -> Info:
        return info_of(
            topology,
            {x.name: env[Name(x.party, "loss", x.name)] for x in topology.losses},
        )

    @partial(jax.jit, donate_argnums=0)
    def train(
        state: TrainState, keys: _Keys, batch: Mapping[str, PyTree], weight: Any
    ) -> tuple[TrainState, Info]:
        env = start(state, keys, batch, weight)
        if microbatches == 1:
            execute(training_ops(walked), env)
        else:
            _run_microbatches(walked, env)
        execute(update_ops(walked), env)
        return _swap_keys(collect(places, apart(places, env))), finish(env)

    @jax.jit
    def measure(
        state: TrainState, keys: _Keys, batch: Mapping[str, PyTree], weight: Any
    ) -> Info:
        env = start(state, keys, batch, weight)
        execute(inference_ops(walked, topology.losses), env)
        return finish(env)

    @jax.jit
    def infer(
        state: TrainState, keys: _Keys, fields: Mapping[str, PyTree]
    ) -> dict[str, PyTree]:
        env = start(state, keys, fields)
        execute(inference_ops(walked), env)
        return {
            n: env[Name(topology.node[n].party, "value", n)] for n in topology.sinks
        }

    def step(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> tuple[TrainState, Info]:
        check_even(config, check_batch(topology, batch, needed, microbatches, weight))
        state, batch, weight = laid(state, batch, weight)
        keys = _keys_of(state)
        state, info = train(_swap_keys(state), keys, batch, weight)
        return _swap_keys(state, keys), info

    def evaluate(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> Info:
        check_batch(topology, batch, needed, weight=weight)
        state, batch, weight = laid(state, batch, weight)
        return measure(_swap_keys(state), _keys_of(state), batch, weight)

    def predict(state: TrainState, fields: Mapping[str, PyTree]) -> dict[str, PyTree]:
        check_batch(topology, fields, inputs)
        state, fields, _ = laid(state, fields)
        return infer(_swap_keys(state), _keys_of(state), fields)

    return Trainer(partial(initial_state, config), step, evaluate, predict, config)


_Keys = Mapping[str, jax.Array]


def _keys_of(state: TrainState) -> dict[str, jax.Array]:
    return {party: own.key for party, own in state.parties.items()}


def _swap_keys(state: TrainState, keys: Mapping[str, Any] | None = None) -> TrainState:
    """The state with other keys, or with none: a compiled step hands typed keys back slowly, and never changes them."""
    found = {}
    for party, (params, own, optimizer, links, _, step) in state.parties.items():
        found[party] = PartyState(
            params, own, optimizer, links, keys[party] if keys else None, step
        )  # type: ignore[arg-type]
    return TrainState(found)


def _run_microbatches(config: Config, env: dict) -> None:
    """Forward and backward over each part of the batch in turn; sums of gradients, means of losses."""
    count, topology = config.microbatches, config.topology
    fields = {n: x for n, x in env.items() if n.kind in ("value", "weight")}
    parts = jax.tree.map(
        lambda x: jnp.reshape(x, (count, x.shape[0] // count, *x.shape[1:])), fields
    )
    fixed = {
        n: x
        for n, x in env.items()
        if n.kind not in ("value", "weight", "state", "link")
    }
    ops = training_ops(config) + accumulate_ops(config)

    def body(carry: dict, part: tuple) -> tuple[dict, None]:
        fields, number = part
        memory = {
            **fixed,
            **carry,
            **fields,
            **{Name(p, "micro"): number for p in topology.parties},
        }
        execute(ops, memory)
        return {n: memory[n] for n in carry}, None

    carry = {n: x for n, x in env.items() if n.kind in ("state", "link")}
    carry |= zero_sums(config, {**env, **jax.tree.map(lambda x: x[0], parts)})
    parts = parts, jnp.arange(count)
    first = jax.tree.map(lambda x: x[0], parts)
    carry, _ = jax.lax.scan(
        body, carry, parts, unroll=convolves_on_cpu(body, carry, first)
    )
    env.update(carry)
    for x in topology.losses:
        name = Name(x.party, "loss", x.name)
        env[name] = env[total(name)] / count
