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

from jsplit.core.base import Info, Message, PyTree, Trainer, TrainState
from jsplit.topology.graph import Topology
from jsplit.training.configure import (
    Links,
    Optimizers,
    check_batch,
    configure,
    fields_of,
)
from jsplit.training.executor import CompiledWalk, InProcess, Recorder, jitted
from jsplit.training.initial import initial_state
from jsplit.training.losses import info_of, normalise_weight
from jsplit.training.meshes import check_even, gathered, with_batch_sharding, zeros
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.update import total, zero_sums
from jsplit.training.walks import walks_of


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
    walks = walks_of(with_batch_sharding(config))
    walk, finish, measure, infer = (
        CompiledWalk(w.turns(), w.keep, jitted(meshes=config.mesh)) for w in walks[:4]
    )
    needed, inputs = fields_of(topology, losses=True), fields_of(topology, losses=False)
    combine = partial(info_of, topology)
    if len(topology.losses) > 1 or any(x.weight != 1 for x in topology.losses):
        combine = jax.jit(combine)
    combine = gathered(combine, config)
    layout = layout_of(config)
    zeros_for = zeros(
        lambda state, part: zero_sums(walks.train.ops, load(layout, state, part)),
        config,
    )
    known: dict[tuple, Message] = {}

    def step(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> tuple[TrainState, Info]:
        size = check_batch(topology, batch, needed, microbatches, weight)
        check_even(config, size)
        weight = normalise_weight(weight)
        store, carrier = load(layout, state, batch, weight), Recorder(known)
        if microbatches == 1:
            walk(store, carrier)
            found = {n.what: store[n] for n in walks.losses}
        else:
            size //= microbatches
            parts = [
                jax.tree.map(lambda x, m=m: x[m * size : (m + 1) * size], dict(batch))
                for m in range(microbatches)
            ]
            store.update(zeros_for(state, parts[0]))
            for number, part in enumerate(parts):
                for at in layout.values():
                    store[at.micro] = np.int32(number)
                    store[at.weight] = (
                        None
                        if weight is None
                        else weight[number * size : (number + 1) * size]
                    )
                    store.update(
                        {name: part[f] for f, name in at.fields.items() if f in part}
                    )
                walk(store, carrier)
            finish(store, carrier)
            found = {n.what: store[total(n)] / microbatches for n in walks.losses}
        info = combine(found)._replace(messages=tuple(carrier.messages))
        return save_back(layout, store), info

    def evaluate(
        state: TrainState, batch: Mapping[str, PyTree], weight: Any = None
    ) -> Info:
        check_batch(topology, batch, needed, weight=weight)
        store, carrier = (
            load(layout, state, batch, normalise_weight(weight)),
            Recorder(known),
        )
        measure(store, carrier)
        return combine({n.what: store[n] for n in walks.losses})._replace(
            messages=tuple(carrier.messages)
        )

    def predict(state: TrainState, fields: Mapping[str, PyTree]) -> dict[str, PyTree]:
        check_batch(topology, fields, inputs)
        store = load(layout, state, fields)
        infer(store, InProcess())
        return {n.what: store[n] for n in walks.outputs}

    return Trainer(partial(initial_state, config), step, evaluate, predict, config)
