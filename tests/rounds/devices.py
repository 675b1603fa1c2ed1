"""Laws of training on several devices, run by `test_devices.py` in processes that have
them.

`python -m tests.rounds.devices LAW ...` prints a line of JSON: by law, how far the
numbers are from those of one device, or what went wrong. With
`JSPLIT_PROCESSES="address number count"` in the environment it is one of several
processes.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils

import jsplit
from jsplit import compress, rounds
from tests.helpers import cross_entropy

RECORDS = 96
# Adaptive ones make steps of rounding errors where a gradient is zero. A schedule
# counts steps, which clients take unlike many of.
OPTIMIZER = optax.sgd(optax.exponential_decay(0.05, 10, 0.9), momentum=0.9)
LAWS: dict[str, Callable[[], float]] = {}
ALGORITHMS = {  # with the client whose parameters predict, where each has its own
    "splitfed 1": (
        lambda t, **how: rounds.splitfed(
            t, "client", version=1, moments="averaged", **how
        ),
        None,
    ),
    "splitfed 3": (lambda t, **how: rounds.splitfed(t, "client", version=3, **how), 2),
    "fedavg": (
        lambda t, **how: rounds.fedavg(
            t, server=optax.adagrad(0.1), statistics="own", **how
        ),
        2,
    ),
    "alone": (lambda t, **how: rounds.alone(t, **how), 2),
    "parallel own": (
        lambda t, **how: rounds.parallel(t, "client", bottoms="own", **how),
        2,
    ),
    "parallel shared": (
        lambda t, **how: rounds.parallel(
            t, "client", bottoms="shared", statistics="own", **how
        ),
        2,
    ),
    "large batch": (lambda t, **how: rounds.large_batch_sgd(t, **how), None),
}
TOGETHER = ("parallel own", "parallel shared", "large batch")


class Net(nnx.Module):
    """A layer, statistics and masks on both sides of the cut."""

    def __init__(self, kind, rngs):
        one = {"use_bias": False, "rngs": rngs}  # BatchNorm takes a bias out again
        self.layer = (
            nnx.Conv(1, 2, (3, 3), **one) if kind == "conv" else nnx.Linear(6, 4, **one)
        )
        width = 2 if kind == "conv" else 4
        self.norms = nnx.List(
            [nnx.BatchNorm(width, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)]
        )
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.middle, self.head = (
            nnx.Linear(width, 4, **one),
            nnx.Linear(4, 3, rngs=rngs),
        )

    def __call__(self, image):
        h = jsplit.cut(
            self.dropout(nnx.relu(self.norms[0](self.layer(image)))), "smashed"
        )
        h = h.mean((1, 2)) if h.ndim > 2 else h
        return self.head(self.dropout(nnx.tanh(self.norms[1](self.middle(h)))))


@cache
def problem(kind: str, records: int = RECORDS) -> tuple[jsplit.Topology, dict]:
    rng = np.random.default_rng(0)
    shape = (4, 4, 1) if kind == "conv" else (6,)
    batch = {
        "image": rng.normal(size=(records, *shape)).astype(np.float32),
        "label": rng.integers(0, 3, records).astype(np.int32),
    }
    segments = jsplit.split(Net(kind, nnx.Rngs(0)), batch["image"][:2])
    return jsplit.vanilla(*segments.values(), loss=cross_entropy), batch


def clients_mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("clients",))


def gap(found, expected) -> float:
    """The largest relative difference; NaN only where both are."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            continue
        if (
            isinstance(x, jax.Array)
            and not x.is_fully_addressable
            and not x.is_fully_replicated
        ):
            x = multihost_utils.process_allgather(x, tiled=True)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape and (np.isnan(x) == np.isnan(y)).all(), (x, y)
        worst = max(worst, float(np.nanmax(np.abs(x - y) / (1 + np.abs(y)), initial=0)))
    return worst


def many_clients(name: str, kind: str, clients: int, part: int | None) -> float:
    """Two rounds, evaluation and prediction: on a mesh and without one; ragged clients,
    of whom `part` take part.
    """
    algorithm, whose = ALGORITHMS[name]
    topology, batch = problem(kind)
    population = jsplit.population.quantity(RECORDS, clients, 2.0, seed=1, least=4)
    drawn = [
        population.round(batch, i, batch=8, clients=part, dropout=0.2) for i in range(2)
    ]
    assert len({*population.sizes}) > 3
    results = []
    for mesh in (clients_mesh(), None):
        how = {"chunk": 1} if part and name not in TOGETHER else {}
        train = algorithm(jsplit.fused(topology, OPTIMIZER), mesh=mesh, **how)
        state, told = train.init(0, drawn[0]), []
        for r in drawn:
            state, info = train.step(state, r)
            told.append(info)
        last = told[-1]
        if not part:
            state, infos = train.run(state, drawn)
            told.append(infos)
        told.append(train.evaluate(state, drawn[0]))
        told.append(train.predict(state, {"image": batch["image"][:3]}, client=whose))
        results.append((told, state))
        if mesh is not None:
            assert np.isfinite(float(last.loss))  # in every process
            assert all(x.is_fully_replicated for x in jax.tree.leaves(told))
            own = [x for x in jax.tree.leaves(state) if not x.is_fully_replicated]
            assert bool(own) == (
                clients % mesh.size == 0 and name not in ("splitfed 1", "large batch")
            )
            for x in own:  # each device has its clients, and nobody else's
                assert len({str(s.index) for s in x.global_shards}) == mesh.size
                assert {s.data.shape[0] for s in x.addressable_shards} == {
                    clients // mesh.size
                }
    return gap(*results)


for name in ALGORITHMS:
    for kind in ("dense", "conv"):
        for clients, part in ((8, None), (11, 5)):
            LAWS[f"{name}, {kind}, {clients}"] = (lambda *a: lambda: many_clients(*a))(
                name, kind, clients, part
            )


def trained(train: jsplit.Trainer, kind: str) -> tuple:
    """Two steps with and without weights, evaluation, and predictions, also of a batch
    that no number of devices divides.
    """
    _, batch = problem(kind)
    weight = np.arange(RECORDS) % 5 * 1.0
    state = train.init(0, batch)
    told = []
    for w in (weight, None):
        state, info = train.step(state, batch, w)
        told.append((info.loss, info.losses))
    info = train.evaluate(state, batch, weight)
    outputs = [
        train.predict(state, {"image": batch["image"][:n]})["output"]
        for n in (RECORDS, 5)
    ]
    return [*told, (info.loss, info.losses)], outputs, state


@cache
def trained_on_one(kind: str, microbatches: int) -> tuple:
    links = {"smashed": compress.quantize(8)}
    return trained(
        jsplit.fused(
            problem(kind)[0], OPTIMIZER, links=links, microbatches=microbatches
        ),
        kind,
    )


def one_party(
    interpreter: Callable, kind: str, mesh, backward: str, microbatches: int
) -> float:
    """All that `trained` does, with weights, a lossy link and parties that spread what
    they compute.
    """
    links = {"smashed": compress.quantize(8)}
    how = {
        "links": links,
        "backward": backward,
        "microbatches": microbatches,
        "mesh": mesh,
    }
    result = trained(interpreter(problem(kind)[0], OPTIMIZER, **how), kind)
    _, outputs, state = result
    if isinstance(mesh, jax.sharding.Mesh):
        assert all(
            x.is_fully_replicated
            for x in jax.tree.leaves(state)
            if x.dtype == jnp.float32
        )
        assert (
            len({str(s.index) for s in outputs[0].global_shards}) == mesh.size
        )  # each has its part of the batch
        assert outputs[1].is_fully_replicated
    else:
        for party, own in state.parties.items():
            where = {d for x in jax.tree.leaves(own.params) for d in x.devices()}
            assert where == (
                {*mesh[party].devices.flat} if party in mesh else {jax.devices()[0]}
            )
    return gap(result, trained_on_one(kind, microbatches))


def meshes(whose: str):
    """One over all devices, or one of the server's own on half of them, with or without
    one of the client's on the others.
    """
    devices = np.array(jax.devices())
    if whose == "all":
        return jax.make_mesh((len(devices),), ("batch",))
    half = len(devices) // 2
    server = {
        "server": jax.sharding.Mesh(devices[:half].reshape(2, -1), ("rows", "columns"))
    }
    return (
        server
        if whose == "server"
        else server
        | {"client": jax.make_mesh((half,), ("batch",), devices=devices[half:])}
    )


for interpreter in (jsplit.fused, jsplit.messages):
    for whose in (
        ("all", "server", "both") if interpreter is jsplit.messages else ("all",)
    ):
        for kind in ("dense", "conv"):
            for backward in ("residuals", "recompute"):
                for parts in (1, 2):
                    LAWS[
                        f"{interpreter.__name__}, {whose}, {kind}, {backward}, {parts}"
                    ] = (
                        lambda make, whose, *a: (
                            lambda: one_party(make, a[0], meshes(whose), *a[1:])
                        )
                    )(interpreter, whose, kind, backward, parts)


def work(make: Callable) -> float:
    """The share of one device's work that each of several does, as the compiler counts it."""
    counts = []
    for mesh in (True, False):
        step, state = make(mesh)
        counted = jax.jit(step).lower(state).compile().cost_analysis()
        assert counted is not None
        counts.append(counted["flops"])
    return counts[0] / counts[1] * jax.device_count()


def round_work(name: str) -> float:
    topology, batch = problem("dense", 64 * 16)
    drawn = jsplit.population.iid(64 * 16, 16).round(batch, 0, batch=64)

    def make(spread):
        mesh = clients_mesh() if spread else None
        # All at once: the compiler counts the body of a loop over clients once.
        how = {} if name in TOGETHER else {"chunk": 2 if spread else 16}
        train = ALGORITHMS[name][0](
            jsplit.fused(topology, optax.sgd(0.1)), mesh=mesh, **how
        )
        state = train.init(0, drawn)
        return lambda state: train.step(state, drawn)[1].loss, state

    return work(make)


def party_work() -> float:
    topology, batch = problem("dense", 1024)

    def make(spread):
        train = jsplit.fused(
            topology,
            optax.sgd(0.1),
            mesh=jax.make_mesh((8,), ("batch",)) if spread else None,
        )
        return lambda state: train.step(state, batch), train.init(0, batch)

    return work(make)


LAWS |= {
    f"work of {name}": lambda name=name: round_work(name) for name in ALGORITHMS
} | {"work of a party": party_work}


def main(laws: list[str]) -> None:
    if processes := os.environ.get("JSPLIT_PROCESSES"):
        address, number, count = processes.split()
        jax.distributed.initialize(
            address, int(count), int(number), initialization_timeout=60
        )
    found: dict[str, float | str] = {}
    for law in laws:
        # No law takes a quarter of that: where it stands still is part of the answer.
        faulthandler.dump_traceback_later(400, repeat=True)
        try:
            found[law] = LAWS[law]()
        except Exception:
            found[law] = traceback.format_exc(limit=-6)
    print(json.dumps({"devices": jax.device_count(), "found": found}))


if __name__ == "__main__":
    main(sys.argv[1:])
