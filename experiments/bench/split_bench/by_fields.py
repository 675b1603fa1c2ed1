"""What the contestants by fields of one data set have in common: records, seeds, and the whole one.

Whatever is trained again by several of them, as the whole network of a seed, is trained once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import jax
import optax
from flax import nnx

import jsplit
from experiments.bench.split_bench.contestant import Setting, score
from experiments.common.data import Arrays, Data, load
from experiments.common.models import Family, network, tasks_of, topology
from experiments.paper.whole_and_split import (
    Algorithm,
    Weights,
    batches,
    divided,
    records_of,
    whole,
)

RATE, MOMENTUM = 0.05, 0.9
NETWORK = "convolutions to 4 x 4, dense 32, BatchNorm, dropout; 3 layers on top"


class Divided(NamedTuple):
    """A configuration, and how it is trained."""

    parts: jsplit.Topology
    trainer: jsplit.Trainer
    one: Algorithm
    tasks: Mapping[str, int]


class Shared:
    """What all contestants of a data set have in common: data, families, models, the whole one."""

    def __init__(self, s: Setting):
        self.s = s
        self.optimizer = optax.sgd(RATE, momentum=MOMENTUM)
        # Kept: each contestant asks for the same seeds again.
        self.data = lru_cache(8)(self._data)
        self.weights = lru_cache(64)(self._weights)
        self.alone = lru_cache(8)(self._alone)
        self.divided = lru_cache(8)(self._divided)

    def _data(self, seed: int) -> Data:
        d = load(self.s.data, self.s.limit, seed)

        def cast(part: Arrays) -> Arrays:
            dtype = self.s.dtype
            whole = {n: x for n, x in part.items() if x.dtype.kind != "f"}
            return {n: x.astype(dtype) for n, x in part.items()} | whole

        return d._replace(train=cast(d.train), test=cast(d.test))

    def family(self, seed: int) -> Family:
        d = self.data(seed)
        shapes = {name: d.train[name].shape[1:] for name in d.owners}
        return Family(shapes, d.owners, d.client, d.tasks, seed, self.s.dtype)

    def tasks(self, count: int) -> dict[str, int]:
        return dict(list(self.family(0).tasks.items())[:count])

    @property
    def steps(self) -> int:
        """Of a pass."""
        return records_of(self.data(0)) // self.s.batch

    def said(self, name: str, kind: str, system: str, clients: int) -> dict:
        d = self.data(0)
        return {
            "data": d.name,
            "contestant": name,
            "kind": kind,
            "system": system,
            "train": records_of(d),
            "test": len(next(iter(d.test.values()))),
            "classes": next(iter(d.tasks.values())),
            "clients": clients,
            "population": "by fields",
            "network": NETWORK
            + ("" if self.s.dtype == "float32" else "; float64")
            + ("" if self.s.kernels == "fast" else f"; kernels of {self.s.kernels}"),
            "optimizer": f"SGD {RATE}, momentum {MOMENTUM}",
            "epochs": self.s.epochs,
            "batch": self.s.batch,
        }

    def _alone(self, count: int, field: str | None = None) -> Algorithm:
        """The whole network, or that of one field alone."""
        return self.started(0, count, field)

    def started(self, seed: int, count: int, field: str | None = None) -> Algorithm:
        family, tasks = self.family(seed), self.tasks(count)
        if field is not None:
            family = family._replace(fields={field: family.fields[field]})
        return whole(family, tasks, network(family, tasks), self.optimizer)

    def _weights(self, seed: int, count: int) -> Weights:
        state = self.train(self.alone(count), self.started(seed, count).state, seed)
        return self.alone(count).weights(state)[0]

    def _divided(self, name: str) -> Divided:
        family = self.family(0)
        tasks = tasks_of(family, name)
        parts = topology(family, name, network(family, tasks))
        trainer = jsplit.fused(parts, self.optimizer, kernels=self.s.kernels)
        first = next(batches(self.data(0), self.s.batch, 0))
        one = divided(trainer, parts, family, tasks, first)
        return Divided(parts, trainer, one, tasks)

    def train(self, one: Algorithm, state, seed: int, data: Data | None = None):
        """The state after all passes, of the batches of a seed."""
        total = self.s.epochs * self.steps
        drawn = batches(data or self.data(seed), self.s.batch, seed)
        for batch in islice(drawn, total):
            state, _ = one.step(state, batch)
        return jax.block_until_ready(state)

    def passing(self, one: Algorithm) -> Callable[[], None]:
        """A pass over the records of seed 0, to be timed."""
        drawn = list(islice(batches(self.data(0), self.s.batch, 0), self.steps))
        state = one.state

        def run() -> None:
            nonlocal state
            for batch in drawn:
                state, _ = one.step(state, batch)
            jax.block_until_ready(state)

        return run


def run_of(sh: Shared, one: Algorithm, state, seed: int, began: float) -> dict:
    """The fields of a run, of its first task."""
    task = next(iter(sh.tasks(1)))
    test = sh.data(seed).test
    found = score(one.predict(state, test)[task], test[task])
    seconds = time.perf_counter() - began
    return {"rate": RATE, **found, "from_whole": None, "seconds_trained": seconds}


def seeded(sh: Shared, built: Divided, seed: int) -> jsplit.TrainState:
    """The first state of a seed, in the program of seed 0: an nnx module has weights already."""
    batch = next(batches(sh.data(seed), sh.s.batch, seed))
    read = {f: batch[f] for f in built.parts.fields}
    state = built.trainer.init(jax.random.key(seed), read)
    model = network(sh.family(seed), built.tasks)
    params, statistics = (
        nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat)
    )
    return jsplit.load_variables(state, params, statistics)
