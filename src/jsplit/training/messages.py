"""Party by party: each runs its own jitted turns, and what crosses is an explicit, recorded message.

All parties live in one process here, but each has a memory of its own, and a turn is a function of
what its party has and has received, of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jsplit.core.base import Info, PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.topology.graph import Topology
from jsplit.training.configure import (
    Links,
    Optimizers,
    check_batch,
    configure,
    fields_of,
)
from jsplit.training.executor import PERSISTENT, CompiledWalk
from jsplit.training.initial import initial_state
from jsplit.training.losses import info_of, normalise_weight, weight_of
from jsplit.training.memory import apart, collect, place, places_of, together
from jsplit.training.meshes import check_even, gathered, with_batch_sharding, zeros
from jsplit.training.step import inference_ops, training_ops
from jsplit.training.update import accumulate_ops, total, update_ops, zero_sums
from jsplit.training.walk import Name


def messages(
    topology: Topology,
    optimizer: Optimizers,
    *,
    links: Links | None = None,
    backward: str = "residuals",
    microbatches: int = 1,
    mesh: Mesh | Mapping[str, Mesh] | None = None,
) -> Trainer:
    """Train a topology party by party, with every activation and cotangent exchanged explicitly.

    Equals `fused` to float tolerance. `info.messages` of every call lists what crossed: name, kind,
    sender, receiver, shape, dtype and the bytes of the payload.

    Args:
        topology, optimizer, links, backward, microbatches: as for `fused`.
        mesh: by party, the devices over which it spreads what it computes along the batch, as for `fused`; a party without a
            mesh computes on the default device, and what crosses moves from one's devices to the other's. One mesh alone is
            every party's.

    Returns:
        A `Trainer`. `step` donates the parameters and optimizer states that it is given.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    config = configure(topology, optimizer, links, backward, microbatches, mesh)
    walked = with_batch_sharding(config)
    losses = [Name(x.party, "loss", x.name) for x in topology.losses]
    outputs = [Name(topology.node[n].party, "value", n) for n in topology.sinks]
    training, adds, updates = (
        training_ops(walked),
        accumulate_ops(walked),
        update_ops(walked),
    )
    sums = [w for op in adds for w in op.writes]
    lasting = [
        w for op in (*training, *updates) for w in op.writes if w.kind in PERSISTENT
    ]
    if microbatches == 1:  # the last turns of the backward pass then update as well
        training, updates = [*training, *updates], []
    walk = CompiledWalk(
        [*training, *(adds if microbatches > 1 else ())],
        [*losses, *lasting, *sums],
        config.mesh,
    )
    finish = CompiledWalk(updates, [*lasting, *map(total, losses)], config.mesh)
    measure = CompiledWalk(inference_ops(walked, topology.losses), losses, config.mesh)
    infer = CompiledWalk(inference_ops(walked), outputs, config.mesh)
    needed, inputs = fields_of(topology, losses=True), fields_of(topology, losses=False)
    combine = partial(info_of, topology)
    if len(losses) > 1 or any(x.weight != 1 for x in topology.losses):
        combine = jax.jit(combine)
    combine = gathered(combine, config)
    places = places_of(config)
    zeros_for = zeros(
        lambda state, part: zero_sums(config, together(place(places, state, part))),
        config,
    )

    def step(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> tuple[TrainState, Info]:
        size = check_batch(topology, batch, needed, microbatches, weight)
        check_even(config, size)
        size //= microbatches
        weight = normalise_weight(weight)
        memories = place(places, state, batch, weight)
        if microbatches == 1:
            sent = walk(memories)
            found = {n.what: memories[n.party][n] for n in losses}
        else:
            parts = [
                jax.tree.map(lambda x, m=m: x[m * size : (m + 1) * size], dict(batch))
                for m in range(microbatches)
            ]
            for party, zeros in apart(places, zeros_for(state, parts[0])).items():
                memories[party].update(zeros)
            sent = []
            for number, part in enumerate(parts):
                for party, own in memories.items():
                    own[Name(party, "micro")] = np.int32(number)
                    own[weight_of(party)] = (
                        None
                        if weight is None
                        else weight[number * size : (number + 1) * size]
                    )
                    own.update(
                        {
                            name: part[f]
                            for f, name in places[party].fields.items()
                            if f in part
                        }
                    )
                sent += walk(memories)
            sent += finish(memories)
            found = {n.what: memories[n.party][total(n)] / microbatches for n in losses}
        return collect(places, memories), combine(found)._replace(messages=tuple(sent))

    def evaluate(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> Info:
        check_batch(topology, batch, needed, weight=weight)
        memories = place(places, state, batch, normalise_weight(weight))
        sent = measure(memories)
        return combine({n.what: memories[n.party][n] for n in losses})._replace(
            messages=tuple(sent)
        )

    def predict(state: TrainState, fields: Mapping[str, PyTree]) -> dict[str, PyTree]:
        check_batch(topology, fields, inputs)
        memories = place(places, state, fields)
        infer(memories)
        return {n.what: memories[n.party][n] for n in outputs}

    return Trainer(partial(initial_state, config), step, evaluate, predict, config)
