"""The programs of all parties in one process, for batches of some shapes.

Each party's turns are compiled by themselves. A step runs them on the whole batch, or part
after part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import NamedTuple, cast

import jax
import numpy as np

from jsplit.core.base import Fields, TrainState
from jsplit.training.config import Config
from jsplit.training.executor import Carrier, CompiledWalk, jitted
from jsplit.training.kinds import Kind
from jsplit.training.left_out import Weights
from jsplit.training.meshes import with_batch_sharding, zeros
from jsplit.training.microbatches import part_of
from jsplit.training.nonfinite import hold
from jsplit.training.passing import passing
from jsplit.training.places import At, walk_to
from jsplit.training.recording import Tape, reader
from jsplit.training.step_numbers import SECONDS
from jsplit.training.store import Layout, load
from jsplit.training.sums import total, zero_sums
from jsplit.training.timing import run_timed
from jsplit.training.walk import Store, Walk
from jsplit.training.walks import Walks, walks_of

_Train = Callable[
    [TrainState, Fields, Weights | None, Carrier], tuple[Store, dict[str, jax.Array]]
]


class Programs(NamedTuple):
    """The programs of a trainer for batches of some shapes.

    `infer` gives those of what `predict` is asked for, and `read` what a step's tape
    holds.
    """

    train: _Train
    measure: CompiledWalk
    infer: Callable[[At], CompiledWalk]
    read: Callable[[Tape, Store], Store]


_shape_of = attrgetter("shape", "dtype")


def by_shapes(config: Config, layout: Layout) -> Callable[[Fields], Programs]:
    """The programs for a batch: what is read of a value may depend on its shape."""
    made: dict[tuple, Programs] = {}

    def programs_for(batch: Fields) -> Programs:
        # In every step: no function of Python runs for a leaf.
        leaves, structure = jax.tree.flatten(dict(batch))
        at = (structure, *map(_shape_of, leaves))
        if at not in made:
            known = passing(config, batch)
            walks = walks_of(with_batch_sharding(known))
            made[at] = Programs(
                _train(known, layout, walks),
                _compiled(config, walks.measure),
                _inferring(config, walks),
                reader(known, walks),
            )
        return made[at]

    return programs_for


def _inferring(config: Config, walks: Walks) -> Callable[[At], CompiledWalk]:
    @cache
    def infer(at: At) -> CompiledWalk:
        return _compiled(config, walk_to(config.topology, walks, at))

    return infer


def _compiled(config: Config, walk: Walk) -> CompiledWalk:
    """A walk whose turns run on the devices of their parties."""
    donated = (Kind.OPTIMIZER, Kind.PARAMS) if config.donate else ()
    compiler = jitted(donated, config.mesh, config.kernels)
    return CompiledWalk(walk.turns(), walk.keep, compiler)


def _running(config: Config, walk: Walk) -> Callable[[Store, Carrier], None]:
    """A walk of a step, which is timed where that is asked for."""
    compiled = _compiled(config, walk)
    if SECONDS not in config.records:
        return compiled

    def run(store: Store, carrier: Carrier) -> None:
        # A trainer that records gives a tape.
        run_timed(compiled, store, cast(Tape, carrier))

    return run


def _train(config: Config, layout: Layout, walks: Walks) -> _Train:
    """A step: `train(state, batch, weight, carrier) -> (store, losses)`."""
    count = config.microbatches
    run = _running(config, walks.train)
    if count == 1:

        def at_once(
            state: TrainState,
            batch: Fields,
            weight: Weights | None,
            carrier: Carrier,
        ) -> tuple[Store, dict[str, jax.Array]]:
            store = load(layout, state, batch, weight)
            hold(layout, store, config.nonfinite)
            run(store, carrier)
            return store, {n.what: store[n] for n in walks.losses}

        return at_once

    # The update runs once, after all parts; its turns send nothing.
    finish = _running(config, walks.finish)
    zeros_for = zeros(
        lambda state, part: zero_sums(walks.train.ops, load(layout, state, part)),
        config,
    )

    def in_parts(
        state: TrainState, batch: Fields, weight: Weights | None, carrier: Carrier
    ) -> tuple[Store, dict[str, jax.Array]]:
        # No weights are a tree without leaves, so they are divided like
        # the fields.
        parts = [part_of((dict(batch), weight), m, count) for m in range(count)]
        store = load(layout, state, *parts[0])
        hold(layout, store, config.nonfinite)
        store.update(zeros_for(state, parts[0][0]))
        for number, (fields, share) in enumerate(parts):
            # A turn may have dropped them after their last use: all are
            # set anew.
            for at in layout.values():
                store[at.micro], store[at.weight] = np.int32(number), share
                for f, name in at.fields.items():
                    if f in fields:
                        store[name] = fields[f]
            run(store, carrier)
        finish(store, carrier)
        return store, {n.what: store[total(n)] / count for n in walks.losses}

    return in_parts
