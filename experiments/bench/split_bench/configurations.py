"""The six configurations of one network, beside the network whole and each field's owner alone.

All are trained from the same seeds on the same batches. `whole` is Flax and Optax alone, with
nothing of jsplit; of every other the weights are held against its.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

import jsplit
from experiments.bench.split_bench import leaks
from experiments.bench.split_bench.by_fields import Shared, run_of, seeded
from experiments.bench.split_bench.contestant import Contestant, Setting
from experiments.common.data import Data
from experiments.common.models import CONFIGURATIONS
from experiments.paper.whole_and_split import batches, difference, records_of
from jsplit import privacy

EPSILON = 2.0  # of labels that are answered at random
ANSWERED = "vanilla, labels at random"


def contestants(s: Setting) -> dict[tuple[str, str], Callable[[], Contestant]]:
    """By name and system, what builds it: nothing is traced of what nobody wants.

    The whole network with one task and with two, owners alone, the configurations, and
    `vanilla` with labels that were answered at random.
    """
    sh = Shared(s)
    found: dict[tuple[str, str], Callable[[], Contestant]] = {}
    for name, count in (("whole", 1), ("whole, two tasks", 2)):
        found[name, "flax"] = partial(_whole, sh, name, count)
    fields = list(sh.family(0).fields)
    if len(fields) > 1:
        for field in fields:
            found[f"alone: {field}", "flax"] = partial(_owner, sh, field)
    for name in CONFIGURATIONS:
        found[name, "jsplit"] = partial(_configuration, sh, name)
    found[ANSWERED, "jsplit"] = partial(_answered, sh)
    return found


def _whole(sh: Shared, name: str, count: int) -> Contestant:
    def train(seed: int) -> dict:
        began = time.perf_counter()
        one = sh.alone(count)
        state = sh.train(one, sh.started(seed, count).state, seed)
        return run_of(sh, one, state, seed, began)

    def cost() -> dict:
        d = sh.data(0)
        raw = sum(x.nbytes for field, x in d.train.items() if field in d.owners)
        labels = sum(d.train[task].nbytes for task in sh.tasks(count))
        return {
            "client_flops": 0.0,
            "client_bytes": float(raw + labels),
            "client_memory": None,
            "guarantee": None,
            "notes": "clients send all records and labels once, and train nothing",
        }

    said = sh.said(name, "baseline", "flax", 1)
    return Contestant(said, train, lambda: sh.passing(sh.alone(count)), cost)


def _owner(sh: Shared, field: str) -> Contestant:
    """Whoever has one field, with the labels and without the others."""

    def train(seed: int) -> dict:
        began = time.perf_counter()
        one = sh.alone(1, field)
        state = sh.train(one, sh.started(seed, 1, field).state, seed)
        return run_of(sh, one, state, seed, began)

    said = sh.said(f"alone: {field}", "baseline", "flax", 1)
    return Contestant(said, train, lambda: sh.passing(sh.alone(1, field)))


def _configuration(sh: Shared, name: str) -> Contestant:
    parts, trainer, one, tasks = built = sh.divided(name)

    def train(seed: int) -> dict:
        began = time.perf_counter()
        state = sh.train(one, seeded(sh, built, seed), seed)
        found = run_of(sh, one, state, seed, began)
        whole = sh.weights(seed, len(tasks))
        return found | {"from_whole": difference(one.weights(state)[0], whole)}

    def leak() -> dict:
        d = sh.data(0)
        data, test = ({f: x[f] for f in parts.fields} for x in (d.train, d.test))
        return leaks.attacked(trainer, data, test, list(d.owners), sh.s)

    clients = clients_of(sh, parts)
    said = sh.said(name, "configuration", "jsplit", len(clients))
    cost = counted(sh, parts, clients)
    return Contestant(said, train, lambda: sh.passing(one), cost, leak)


def clients_of(sh: Shared, parts: jsplit.Topology) -> list[str]:
    """The parties that hold records."""
    fields = set(sh.data(0).owners)
    return [p for p in parts.parties if fields & {*parts.holds.get(p, ())}]


def counted(
    sh: Shared, parts: jsplit.Topology, clients: Sequence[str]
) -> Callable[[], dict]:
    """What a client pays for the whole training, on average over clients."""

    def cost() -> dict:
        first = next(batches(sh.data(0), sh.s.batch, 0))
        batch = {f: first[f] for f in parts.fields}
        each = jsplit.cost(parts, batch, optimizer=sh.optimizer).parties
        own, steps = [each[p] for p in clients], sh.s.epochs * sh.steps
        return {
            "client_flops": float(np.mean([p.work().flops for p in own]) * steps),
            "client_bytes": float(np.mean([p.sent + p.received for p in own]) * steps),
            "client_memory": float(np.mean([p.memory() for p in own])),
            "guarantee": guaranteed(sh, parts, None),
            "notes": "",
        }

    return cost


def guaranteed(
    sh: Shared,
    parts: jsplit.Topology,
    labels: Mapping[str, privacy.Mechanism] | None,
) -> dict:
    d = sh.data(0)
    batch = {f: d.train[f][: sh.s.batch] for f in parts.fields}
    steps, records = sh.s.epochs * sh.steps, records_of(d)
    return leaks.promised(parts, batch, steps=steps, records=records, labels=labels)


def _answered(sh: Shared) -> Contestant:
    """Vanilla, whose labels were answered at random before training: what a guarantee costs."""
    plain, built = _configuration(sh, "vanilla"), sh.divided("vanilla")
    ((task, classes),) = built.tasks.items()

    def said_labels(seed: int) -> Data:
        d = sh.data(seed)
        # For measuring; in earnest the key is a secret of whoever has the labels.
        key = np.random.default_rng(seed).bytes(32)
        label = d.train[task]
        options = {"classes": classes, "epsilon": EPSILON, "key": key}
        said = privacy.label_response(label, range(len(label)), **options)
        return d._replace(train=d.train | {task: said})

    def train(seed: int) -> dict:
        began = time.perf_counter()
        state = sh.train(built.one, seeded(sh, built, seed), seed, said_labels(seed))
        return run_of(sh, built.one, state, seed, began)

    def cost() -> dict:
        how = privacy.response_mechanism(classes, EPSILON)
        promise = guaranteed(sh, built.parts, {task: how})
        says = "labels are answered once, before training, at an epsilon of 2"
        return counted(sh, built.parts, clients_of(sh, built.parts))() | {
            "guarantee": promise,
            "notes": says,
        }

    said = dict(plain.said) | {"contestant": ANSWERED}
    return Contestant(said, train, None, cost)
