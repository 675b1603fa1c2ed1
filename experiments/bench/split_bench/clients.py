"""The algorithms over many clients, beside FedAvg, a large batch, all records pooled, and alone.

Each chooses its rate of learning on validation records of the first seed, by short runs, and keeps
it for all seeds. Networks are cut after their first layer and have no BatchNorm, whose statistics
each algorithm would treat in another way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.bench.split_bench import leaks
from experiments.bench.split_bench.contestant import Contestant, Setting, score
from experiments.bench.split_bench.schema import why
from experiments.common.algorithms import Contestant as Algorithm
from experiments.common.algorithms import algorithms
from experiments.common.harness import (
    Records,
    best,
    cost_of,
    fields,
    records,
    topology,
    trainer,
    unlike,
)
from jsplit import runs
from jsplit.population import Population, Round

ATTACKED_RATE = 0.1
BASELINES = ("FedAvg", "FedAvg, server Adam", "large-batch SGD", "centralized", "alone")


class Shared:
    """What algorithms of one data set have in common: records, clients and rounds of a seed."""

    def __init__(self, s: Setting, rates: Mapping[tuple[str, str], float]):
        self.s, self.rates = s, dict(rates)
        self.records = lru_cache(8)(lambda seed: records(s.data, s.limit, seed))
        self.people = lru_cache(8)(self._people)
        self.draws = lru_cache(32)(self._draws)

    def rate(
        self, key: tuple[str, str], accuracy: Callable[[float], float | None]
    ) -> float:
        """The rate of a contestant: that it had, or the best of short runs of the first seed."""
        if key not in self.rates:
            self.rates[key], _ = best(accuracy)
        return self.rates[key]

    def _people(self, seed: int) -> Population:
        return unlike(self.records(seed), self.s.clients, seed)[1]

    def _draws(self, seed: int, kind: str) -> list[Round]:
        people, train = self.people(seed), fields(self.records(seed).train)
        batch, found = self.s.batch, []
        for n in range(self.s.rounds):
            if kind == "global":
                found.append(people.global_batches(train, n, batch=batch))
                continue
            whose = people.pooled() if kind == "pooled" else people
            shuffled = kind == "shuffled"
            found.append(whose.round(train, n, batch=batch, shuffled=shuffled))
        return found

    def said(self, name: str, system: str) -> dict:
        data, people = self.records(0), self.people(0)
        by, _ = unlike(data, self.s.clients, 0)
        return {
            "data": data.name,
            "contestant": name,
            "kind": "baseline" if name in BASELINES else "clients",
            "system": system,
            "train": len(data.train["label"]),
            "test": len(data.test["label"]),
            "classes": data.classes,
            "clients": len(people.sizes),
            "population": by,
            "network": self.s.network,
            "optimizer": "SGD, rate chosen on validation records of seed 0",
            "epochs": self.s.rounds,
            "batch": self.s.batch,
        }


def contestants(
    s: Setting, chunk: int | None, rates: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], Callable[[], Contestant]]:
    """By name and system, what builds each.

    Args:
        s: how much is trained.
        chunk: how many clients run at once.
        rates: those that were chosen before, by name and system.
    """
    sh = Shared(s, rates)
    parts = topology(s.network, sh.records(0))
    one = trainer(parts)
    found = {}
    for name, algorithm in algorithms(one, chunk).items():
        found[name, "jsplit"] = partial(_contestant, sh, parts, name, algorithm)
    return found


def _contestant(
    sh: Shared, parts: jsplit.Topology, name: str, what: Algorithm
) -> Contestant:
    def trained(seed: int, rate: float, number: int):
        """The state after so many rounds."""
        draws = sh.draws(seed, what.draw)
        state = what.algorithm.init(seed, draws[0])
        state = jsplit.set_hyperparams(state, {"learning_rate": rate})
        for each in draws[:number]:
            state, _ = what.algorithm.step(state, each)
        return state

    def judged(seed: int, state, part: Mapping) -> dict:
        people = sh.people(seed)
        models = len(people.sizes) if what.own else None
        logits = predicted(what.algorithm.predict, state, part, models)
        return scores(logits, part, people)

    def rate_of() -> float:
        number, valid = max(sh.s.rounds // 3, 1), sh.records(0).valid

        def accuracy(rate: float) -> float | None:
            return judged(0, trained(0, rate, number), valid)["accuracy"]

        return sh.rate((name, "jsplit"), accuracy)

    def train(seed: int) -> dict:
        rate, began = rate_of(), time.perf_counter()
        found: dict = {"accuracy": None, "auc": None}
        # Here and not by whoever asks: the row is to have the rate at which it diverged.
        try:
            state = jax.block_until_ready(trained(seed, rate, sh.s.rounds))
            found = judged(seed, state, sh.records(seed).test)
        except jsplit.NotFinite as error:
            found["notes"] = why(error)
        seconds = time.perf_counter() - began
        return {"rate": rate, **found, "from_whole": None, "seconds_trained": seconds}

    def start() -> Callable[[], None]:
        state = trained(0, rate_of(), 1)
        each = sh.draws(0, what.draw)[0]

        def run() -> None:
            nonlocal state
            state, _ = what.algorithm.step(state, each)
            jax.block_until_ready(state)

        return run

    def cost() -> dict:
        step = cost_of(parts, sh.records(0), sh.s.batch)
        people, draws = sh.people(0), sh.draws(0, what.draw)
        sent = float(what.bytes(step, people, draws))
        found = counted(name, step, people.sizes, sh.s.rounds, sent)
        # A statement is of messages over a cut; what whole models give away it does not say.
        cut = name not in BASELINES
        return found | {"guarantee": promised(sh, parts) if cut else None}

    # The others send the same over the same cut: one attack stands for all.
    leak = partial(leaked, sh, parts) if name == "turns, hand-off peer" else None
    return Contestant(sh.said(name, "jsplit"), train, start, cost, leak)


def predicted(predict: Callable, state: Any, part: Mapping, clients: int | None):
    """Logits of each model, [models, records, classes]."""
    read = {"record": jnp.asarray(part["record"])}
    whose = [None] if clients is None else range(clients)
    found = [predict(state, read, client=client)["output"] for client in whose]
    return np.stack([np.asarray(x) for x in found])


def scores(logits: np.ndarray, part: Mapping, people: Population) -> dict:
    """Of the one model; of several, each record by that of whose it is, or the mean over models."""
    label = part["label"]
    if len(logits) == 1:
        return score(logits[0], label)
    group = part.get("group", np.zeros(0)).astype(str)
    names = [str(name) for name in people.names]
    if len(group) and {*group} <= {*names}:
        place = np.array([names.index(g) for g in group])
        return score(logits[place, np.arange(len(label))], label)
    each = [score(x, label) for x in logits]
    mean = {}
    for what in ("accuracy", "auc"):
        known = [x[what] for x in each]
        numbers = [x for x in known if x is not None]
        mean[what] = float(np.mean(numbers)) if len(numbers) == len(known) else None
    return mean


def counted(
    name: str, step: jsplit.Cost, sizes: Sequence[int], number: int, sent: float
) -> dict:
    """What a client pays in all rounds, on average; bytes are those of the rounds as drawn."""
    found, notes = run_cost(name, step, sizes, number), ""
    if name == "GPSL, shared":
        notes = "FLOPs as of parallel, shared: of the same records; memory not counted"
    if name == "centralized":
        notes = "clients send all records once, and train nothing"
    if found is None:
        flops = memory = None if name != "centralized" else 0.0
    else:
        flops = float(found.mean["flops"])
        memory = None if name == "GPSL, shared" else float(found.mean["memory"])
    return {
        "client_flops": flops,
        "client_bytes": sent,
        "client_memory": None if name == "centralized" else memory,
        "notes": notes,
    }


def run_cost(
    name: str, step: jsplit.Cost, sizes: Sequence[int], number: int
) -> runs.RunCost | None:
    """The formulas of `jsplit.runs` for an algorithm by its title."""
    if name.startswith("turns"):
        ends = {"peer": "peer", "server": "server", "hand-off": "none"}
        how = ends[name.split()[-1]]
        return runs.take_turns(step, sizes, client="client", epochs=number, handoff=how)
    if name.startswith(("parallel", "GPSL")):
        how = "own" if name.endswith("own bottoms") else "shared"
        return runs.parallel(step, sizes, client="client", epochs=number, bottoms=how)
    if name.startswith("SplitFed"):
        version = int(name.split()[1])
        return runs.splitfed(
            step, sizes, client="client", rounds=number, version=version
        )
    if name.startswith("FedAvg") or name == "alone":
        return runs.fedavg(step, sizes, rounds=number)
    if name == "large-batch SGD":
        return runs.large_batch_sgd(step, sizes, epochs=number)
    return None


def leaked(sh: Shared, parts: jsplit.Topology) -> dict:
    """What the cut of these networks gives away, trained on the records of all clients in turns."""
    data: Records = sh.records(0)
    plain = jsplit.fused(parts, optax.sgd(ATTACKED_RATE))
    train, test = ({f: x[f] for f in parts.fields} for x in (data.train, data.test))
    found = leaks.attacked(plain, train, test, ["record"], sh.s)
    said = "one client with all records stands for all clients. " + found["notes"]
    return found | {"notes": said}


def promised(sh: Shared, parts: jsplit.Topology) -> dict:
    """What is guaranteed over the cut, of one client with all records."""
    train = sh.records(0).train
    count, size = len(train["label"]), sh.s.batch
    batch = {f: train[f][:size] for f in parts.fields}
    steps = sh.s.rounds * -(-count // size)
    return leaks.promised(parts, batch, steps=steps, records=count)
