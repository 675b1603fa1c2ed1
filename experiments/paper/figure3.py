"""At equal cost to a client, how accurate is split learning? The paper's Figure 3.

Vepakomma, Gupta, Swedish and Raskar, `Split learning for health
<https://arxiv.org/abs/1812.00564>`_, 2018, Figure 3: validation accuracy against what a client
has computed, of 100 clients (VGG, CIFAR-10) and of 500 (ResNet-50, CIFAR-100). Batch, cut, local
passes and learning rates are not given there. Here every method trains the same network by plain
SGD on the same clients' batches for as many passes over the data; SplitNN is
`jsplit.rounds.take_turns` with hand-off from client to client. Each method has the learning rate
of one grid, the same for all, at which a short run (a third of the passes, or less) was most
accurate on records set aside from training. What a client has computed and sent is counted by
`jsplit.runs`, on average over clients. A client counts its own part of the network where it is
split, and else all of it.

    # digits: two networks, many clients and few
    python experiments/paper/figure3.py
    # a file of one's own; for its layout see data.py
    python experiments/paper/figure3.py --data cifar10.npz --clients 100
    # VGG-16, 100 and 500 clients: for a GPU
    python experiments/paper/figure3.py --data cifar10.npz --full
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jsplit
from experiments.common import report
from experiments.common.data import BUNDLED
from experiments.common.harness import (
    NETWORKS,
    RATES,
    VALID,
    Records,
    best,
    correct,
    cost_of,
    fields,
    positive,
    records,
    shown,
    topology,
    trainer,
)
from experiments.paper import plot_figure3
from experiments.paper.equal_cost import AXES, BUDGETS, SPLIT, needed, verdicts
from jsplit import population, rounds, runs

LOCAL = 5  # passes of a client between two averages, where it is not one
NEAR = 0.02  # of accuracy below split learning's last, which others are asked to reach


class Method(NamedTuple):
    """What is compared.

    Attributes:
        algorithm: how clients train.
        local: passes of a client in a round.
        cost: what so many rounds cost the clients.
    """

    algorithm: jsplit.rounds.Algorithm
    local: int
    cost: Callable[[int], jsplit.runs.RunCost]


def methods(
    parts: jsplit.Topology, cost: jsplit.Cost, sizes: Sequence[int], chunk: int | None
) -> dict[str, Method]:
    one = trainer(parts)

    def averaging(local: int) -> Method:
        # Of plain SGD there are no moments to average but the rate, which is the same for all.
        algorithm = rounds.fedavg(one, moments="averaged", chunk=chunk)

        def spent(n: int) -> runs.RunCost:
            return runs.fedavg(cost, sizes, rounds=n, epochs=local)

        return Method(algorithm, local, spent)

    def turns(n: int) -> runs.RunCost:
        return runs.take_turns(cost, sizes, client="client", epochs=n)

    def steps(n: int) -> runs.RunCost:
        return runs.large_batch_sgd(cost, sizes, epochs=n)

    return {
        SPLIT: Method(rounds.take_turns(one, "client"), 1, turns),
        "FedAvg": averaging(1),
        f"FedAvg, {LOCAL} local passes": averaging(LOCAL),
        "large-batch SGD": Method(rounds.large_batch_sgd(one), 1, steps),
    }


def accuracies(
    method: Method,
    people: population.Population,
    data: Records,
    test: Mapping,
    rate: float,
    seed: int,
    passes: int,
    batch: int,
    every: bool = True,
) -> list[float]:
    """Accuracy on `test` before training and after each round, or only at the end.

    From the round on in which training diverges it is 0: such a model classifies nothing.
    """
    train = fields(data.train)
    number = passes // method.local
    draws = [
        people.round(train, r, batch=batch, epochs=method.local) for r in range(number)
    ]
    state = method.algorithm.init(seed, draws[0])
    state = jsplit.set_hyperparams(state, {"learning_rate": rate})
    found = []
    for draw in [*draws, None]:
        if every or draw is None:
            found.append(float(correct(method.algorithm.predict, state, test).mean()))
        if draw is not None:
            try:
                state, _ = method.algorithm.step(state, draw)
            except jsplit.NotFinite:
                missing = number + 1 - len(found) if every else 1
                return [*found, *[0.0] * missing]
    return found


def short(passes: int) -> int:
    """How many passes a rate is judged by: a third or less, in whole rounds of every method."""
    return max(passes // 3 // LOCAL, 1) * LOCAL


def compare(
    data: Records, name: str, clients: int, options: argparse.Namespace, start: Callable
) -> list[dict]:
    """All methods and seeds with one network and number of clients: a row for each."""
    parts = topology(name, data)
    many = [
        population.iid(len(data.train["label"]), clients, seed)
        for seed in range(options.seeds)
    ]
    cost = cost_of(parts, data, options.batch)
    whole, own = cost.total.work().flops, cost.parties["client"].work().flops
    common = {
        "data": data.name,
        "network": name,
        "clients": clients,
        "batch": options.batch,
        "records": len(data.train["label"]),
        "parameters": cost.total.params // 4,
        "share": own / whole,
    }
    rows = []
    for title, method in methods(parts, cost, many[0].sizes, chunk_of(name)).items():
        said = f"{data.name:12} {name:13} {clients:4} clients  {title}"
        advance = start(said, len(RATES) + options.seeds)
        for row in trained(method, many, data, options, advance):
            rows.append({**common, "method": title, **row})
    return rows


def chunk_of(network: str) -> int | None:
    """How many clients run at once: all, or few where they convolve, by what a device takes."""
    if network in ("dense", "small"):
        return None
    return 1 if jax.default_backend() == "cpu" else 10


def trained(
    method: Method,
    many: Sequence[population.Population],
    data: Records,
    options: argparse.Namespace,
    advance: report.Advance,
) -> Iterator[dict]:
    """A row for each seed, at the rate that was best in a short run of the first."""

    def tried(rate: float) -> float:
        tries = short(options.passes)
        return accuracies(
            method,
            many[0],
            data,
            data.valid,
            rate,
            0,
            tries,
            options.batch,
            every=False,
        )[-1]

    rate, validation = best(tried, advance)
    for seed, people in enumerate(many):
        found = accuracies(
            method, people, data, data.test, rate, seed, options.passes, options.batch
        )
        spent = [method.cost(n).mean for n in range(1, len(found))]
        yield {
            "seed": seed,
            "rate": rate,
            "validation": validation,
            "local": method.local,
            "passes": [method.local * n for n in range(len(found))],
            "accuracy": found,
            # The first accuracy is that before training, for which nothing is spent.
            **{what: [0.0, *(s[what] for s in spent)] for what in AXES},
        }
        said = shown(found[-1] or None)
        advance(1, f"rate {rate:g}, seed {seed}: {said}")


# What comes out.


def show(rows: Sequence[Mapping], found: Sequence[Mapping]) -> None:
    """A table of the methods, and what it says of the claim."""
    first = rows[0]
    by: dict[str, list[Mapping]] = {}
    for row in rows:
        by.setdefault(row["method"], []).append(row)
    goal = float(np.mean([row["accuracy"][-1] for row in by[SPLIT]])) - NEAR
    budgets = [f"{part:g} {what[0].upper()}" for what in AXES for part in BUDGETS]
    columns = ["method", "rate", *budgets, "end", "best", "F to", "B to"]
    lines = [line(title, own, by[SPLIT], found, goal) for title, own in by.items()]
    report.table(
        f"{first['data']}, {first['network']} network "
        f"({first['parameters']:,} parameters; split, a client does "
        f"{100 * first['share']:.2g} % of the work), {first['clients']} clients of "
        f"{first['records'] // first['clients']} records, batch {first['batch']}",
        columns,
        lines,
    )
    most = []
    for v in found[len(BUDGETS) - 1 :: len(BUDGETS)]:
        unit, size = AXES[v["axis"]]
        most.append(f"{v['budget'] / size:.3g} {unit}")
    print(
        f"  mean test accuracy of {len(by[SPLIT])} seeds when a client has spent so much "
        f"of F = {most[0]} and B = {most[1]},\n"
        f"  all that the cheapest method spends, and after {first['passes'][-1]} passes, "
        "and at best; in brackets: untrained.\n"
        f"  F to, B to: what it takes to reach {goal:.3f}, as a multiple of SplitNN's; "
        "over: not reached."
    )
    for what, words in (("flops", "FLOPs of a client"), ("bytes", "bytes of a client")):
        print(f"  at equal {words} {claim([v for v in found if v['axis'] == what])}")


def line(
    title: str,
    own: Sequence[Mapping],
    split: Sequence[Mapping],
    found: Sequence[Mapping],
    goal: float,
) -> list[str]:
    """A method's line of the table."""
    at = []
    for v in found:
        then = f"{np.mean(v['accuracy'][title]):.3f}"
        # Before its first round has ended a method has learned nothing yet.
        reached = own[0][v["axis"]][1] <= v["budget"] * (1 + 1e-9)
        at.append(then if reached else f"({then})")
    multiples = []
    for what in AXES:
        spent, there = needed(own, what, goal)
        multiple = spent / needed(split, what, goal)[0]
        multiples.append(f"{'' if there else 'over '}{multiple:.3g}")
    # A rate at the end of the grid might have been better beyond it.
    edge = "" if min(RATES) < own[0]["rate"] < max(RATES) else ", edge"
    diverged = sum(row["accuracy"][-1] == 0 for row in own)
    edge += f", diverged in {diverged} of {len(own)}" if diverged else ""
    mean = np.mean([row["accuracy"] for row in own], axis=0)
    after = [f"{mean[-1]:.3f}", f"{mean.max():.3f}"]
    return [title, f"{own[0]['rate']:g}{edge}", *at, *after, *multiples]


def claim(found: Sequence[Mapping]) -> str:
    """Whether the paper's claim holds at the budgets of one axis."""
    said = [v["split is"] for v in found]
    leads = ", ".join(f"{100 * np.mean(v['lead']):+.1f}" for v in found)
    if {*said} == {"ahead"}:
        holds = "holds"
    elif "ahead" in said:
        holds = "holds in part"
    else:
        holds = "does not hold"
    return (
        f"the claim {holds}: split is {', '.join(said)}; "
        f"{leads} points over the next best."
    )


def arguments_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    data = f"{', '.join(BUNDLED)}, or the path of an .npz file"
    add("--data", default="digits", help=data)
    names = ", ".join(NETWORKS)
    add("--networks", nargs="+", choices=NETWORKS, metavar="NAME", help=names)
    add("--clients", nargs="+", type=positive, metavar="NUMBER", help="of clients")
    passes = f"over the data, a multiple of {LOCAL}"
    add("--passes", type=positive, help=passes)
    add("--seeds", type=positive)
    add("--batch", type=positive, default=16)
    limit = "use at most so many records for training and for testing"
    add("--limit", type=positive, help=limit)
    full = "VGG-16, 100 and 500 clients, 100 passes, 5 seeds"
    add("--full", action="store_true", help=full)
    add("--out", type=Path, default=Path("results"), help="folder for rows and figure")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with the data loaded, and what is usual for it where nothing is said."""
    parser = arguments_of()
    options = parser.parse_args(arguments)
    if options.full:
        usual = (["vgg16"], [100, 500], 100, 5)
    elif options.data in BUNDLED:
        usual = (["dense", "small"], [50, 4], 30, 3)
    else:
        usual = (["convolutional"], [100], 20, 3)
    for name, value in zip(
        ("networks", "clients", "passes", "seeds"), usual, strict=True
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.passes % LOCAL:
        parser.error(
            f"argument --passes: expected a multiple of {LOCAL}, got {options.passes}"
        )
    try:
        options.loaded = records(options.data, options.limit)
    except ValueError as e:
        parser.error(f"argument --data: {e}")
    count, clients = len(options.loaded.train["label"]), max(options.clients)
    if count < clients:
        parser.error(
            f"argument --clients: {clients} is more than the {count} training records"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, list[dict]]:
    options = parse(arguments)
    data = options.loaded
    settings = [
        (name, clients) for name in options.networks for clients in options.clients
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    with report.progress() as start:
        results = [compare(data, *setting, options, start) for setting in settings]
    every: dict[str, list[dict]] = {"curves": [], "verdicts": []}
    for (name, clients), rows in zip(settings, results, strict=True):
        found = verdicts(rows)
        show(rows, found)
        every["curves"] += rows
        every["verdicts"] += [
            {"data": data.name, "network": name, "clients": clients, **v} for v in found
        ]
    grid = ", ".join(f"{r:g}" for r in RATES)
    print(
        f"rates: of {grid}, by {short(options.passes)} passes on {100 * VALID:g} % "
        "of the records; edge: first or last."
    )
    print(
        "the claim: at equal cost to a client split learning is more accurate than all "
        "others; ahead, behind: in every seed."
    )
    file = options.out / f"figure3_{data.name}.json"
    file.write_text(json.dumps(every, indent=1))
    drawn = plot_figure3.save(every["curves"], file.with_suffix(".png"))
    print(f"\nwrote {file}\nwrote {drawn}")
    return every


if __name__ == "__main__":
    main()
