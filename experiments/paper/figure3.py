"""At equal cost to a client, how accurate are split learning, federated averaging and large-batch
SGD? The paper's Figure 3.

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
from collections.abc import Callable, Mapping, Sequence
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
    topology,
    trainer,
    with_rate,
)
from experiments.paper import plot_figure3
from experiments.paper.equal_cost import AXES, BUDGETS, SPLIT, needed, verdicts
from jsplit import population, rounds, runs

LOCAL = 5  # passes of a client between two averages, where it is not one
NEAR = 0.02  # of accuracy below split learning's last, which others are asked to reach


class Method(NamedTuple):
    """One way to train: the algorithm, passes in a round, and what so many rounds cost the
    clients.
    """

    algorithm: jsplit.rounds.Algorithm
    local: int
    cost: Callable[[int], jsplit.runs.RunCost]


def methods(
    parts: jsplit.Topology, cost: jsplit.Cost, sizes: Sequence[int], chunk: int | None
) -> dict[str, Method]:
    one = trainer(parts)

    def averaging(local: int) -> Method:
        algorithm = rounds.fedavg(
            one, moments="averaged", chunk=chunk
        )  # of SGD, the rate alone
        return Method(
            algorithm, local, lambda n: runs.fedavg(cost, sizes, rounds=n, epochs=local)
        )

    return {
        SPLIT: Method(
            rounds.take_turns(one, "client"),
            1,
            lambda n: runs.take_turns(cost, sizes, client="client", epochs=n),
        ),
        "FedAvg": averaging(1),
        f"FedAvg, {LOCAL} local passes": averaging(LOCAL),
        "large-batch SGD": Method(
            rounds.large_batch_sgd(one),
            1,
            lambda n: runs.large_batch_sgd(cost, sizes, epochs=n),
        ),
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
    """Accuracy on `test` before training and after each round, or only at the end."""
    train = fields(data.train)
    number = passes // method.local
    draws = [
        people.round(train, r, batch=batch, epochs=method.local) for r in range(number)
    ]
    state = with_rate(method.algorithm.init(seed, draws[0]), rate)
    found = []
    for draw in [*draws, None]:
        if every or draw is None:
            found.append(float(correct(method.algorithm.predict, state, test).mean()))
        if draw is not None:
            state, _ = method.algorithm.step(state, draw)
    return found


def short(passes: int) -> int:
    """How many passes a rate is judged by: a third or less, in whole rounds of every method."""
    return max(passes // 3 // LOCAL, 1) * LOCAL


def compare(
    data: Records, name: str, clients: int, options: argparse.Namespace, start: Callable
) -> list[dict]:
    """All methods and seeds with one network and number of clients: a row for each."""
    parts = topology(name, data)
    count = len(data.train["label"])
    many = [population.iid(count, clients, seed) for seed in range(options.seeds)]
    cost = cost_of(parts, data, options.batch)
    work = cost.total.work().flops, cost.parties["client"].work().flops
    convolves = name not in ("dense", "small")
    chunk = (1 if jax.default_backend() == "cpu" else 10) if convolves else None
    tries = short(options.passes)
    rows = []
    for title, method in methods(parts, cost, many[0].sizes, chunk).items():
        advance = start(
            f"{data.name:12} {name:13} {clients:4} clients  {title}",
            len(RATES) + options.seeds,
        )

        def tried(rate: float, method=method) -> float:
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
                method,
                people,
                data,
                data.test,
                rate,
                seed,
                options.passes,
                options.batch,
            )
            spent = [method.cost(n).mean for n in range(1, len(found))]
            rows.append(
                {
                    "data": data.name,
                    "network": name,
                    "clients": clients,
                    "method": title,
                    "seed": seed,
                    "rate": rate,
                    "validation": validation,
                    "batch": options.batch,
                    "records": count,
                    "parameters": cost.total.params // 4,
                    "share": work[1] / work[0],
                    "local": method.local,
                    "passes": [method.local * n for n in range(len(found))],
                    "accuracy": found,
                    **{what: [0.0, *(s[what] for s in spent)] for what in AXES},
                }
            )
            advance(1, f"rate {rate:g}, seed {seed}: {found[-1]:.3f}")
    return rows


# What comes out.


def show(rows: Sequence[Mapping], found: Sequence[Mapping]) -> None:
    first = rows[0]
    by = {
        title: [row for row in rows if row["method"] == title]
        for title in dict.fromkeys(r["method"] for r in rows)
    }
    goal = float(np.mean([row["accuracy"][-1] for row in by[SPLIT]])) - NEAR
    budgets = [f"{part:g} {what[0].upper()}" for what in AXES for part in BUDGETS]
    most = [
        f"{v['budget'] / AXES[v['axis']][1]:.3g} {AXES[v['axis']][0]}"
        for v in found[len(BUDGETS) - 1 :: len(BUDGETS)]
    ]
    cells = []
    for title, own in by.items():
        multiples = []
        for what in AXES:
            spent, there = needed(own, what, goal)
            multiple = spent / needed(by[SPLIT], what, goal)[0]
            multiples.append(f"{'' if there else 'over '}{multiple:.3g}")
        edge = "" if min(RATES) < own[0]["rate"] < max(RATES) else ", edge"
        mean = np.mean([row["accuracy"] for row in own], axis=0)
        after = [f"{mean[-1]:.3f}", f"{mean.max():.3f}"]
        at = []
        for v in found:
            then = f"{np.mean(v['accuracy'][title]):.3f}"
            at.append(
                then
                if own[0][v["axis"]][1] <= v["budget"] * (1 + 1e-9)
                else f"({then})"
            )
        cells.append([title, f"{own[0]['rate']:g}{edge}", *at, *after, *multiples])
    report.table(
        f"{first['data']}, {first['network']} network ({first['parameters']:,} parameters; split, a client does "
        f"{100 * first['share']:.2g} % of the work), {first['clients']} clients of {first['records'] // first['clients']} "
        f"records, batch {first['batch']}",
        ["method", "rate", *budgets, "end", "best", "F to", "B to"],
        cells,
    )
    print(
        f"  mean test accuracy of {len(by[SPLIT])} seeds when a client has spent so much of F = {most[0]} and B = {most[1]},\n"
        f"  all that the cheapest method spends, and after {first['passes'][-1]} passes, and at best; in brackets: untrained.\n"
        f"  F to, B to: what it takes to reach {goal:.3f}, as a multiple of SplitNN's; over: not reached."
    )
    for what, words in (("flops", "FLOPs of a client"), ("bytes", "bytes of a client")):
        said = [v["split is"] for v in found if v["axis"] == what]
        leads = ", ".join(
            f"{100 * np.mean(v['lead']):+.1f}" for v in found if v["axis"] == what
        )
        holds = (
            "holds"
            if {*said} == {"ahead"}
            else "does not hold"
            if "ahead" not in said
            else "holds in part"
        )
        print(
            f"  at equal {words} the claim {holds}: split is {', '.join(said)}; {leads} points over the next best."
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data",
        default="digits",
        help=f"{', '.join(BUNDLED)}, or the path of an .npz file",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        metavar="NAME",
        help=", ".join(NETWORKS),
    )
    parser.add_argument(
        "--clients", nargs="+", type=positive, metavar="NUMBER", help="of clients"
    )
    parser.add_argument(
        "--passes", type=positive, help=f"over the data, a multiple of {LOCAL}"
    )
    parser.add_argument("--seeds", type=positive)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument(
        "--limit",
        type=positive,
        help="use at most so many records for training and for testing",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="VGG-16, 100 and 500 clients, 100 passes, 5 seeds",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for rows and figure"
    )
    options = parser.parse_args(arguments)
    small = options.data in BUNDLED
    options.networks = options.networks or (
        ["vgg16"]
        if options.full
        else ["dense", "small"]
        if small
        else ["convolutional"]
    )
    options.clients = options.clients or (
        [100, 500] if options.full else [50, 4] if small else [100]
    )
    options.passes = options.passes or (100 if options.full else 30 if small else 20)
    options.seeds = options.seeds or (5 if options.full else 3)
    if options.passes % LOCAL:
        parser.error(
            f"argument --passes: expected a multiple of {LOCAL}, got {options.passes}"
        )
    try:
        options.loaded = records(options.data, options.limit)
    except ValueError as e:
        parser.error(f"argument --data: {e}")
    if (most := len(options.loaded.train["label"])) < max(options.clients):
        parser.error(
            f"argument --clients: {max(options.clients)} is more than the {most} training records"
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
        f"rates: of {grid}, by {short(options.passes)} passes on {100 * VALID:g} % of the records; edge: first or last."
    )
    print(
        "the claim: at equal cost to a client split learning is more accurate than all others; ahead, behind: in every seed."
    )
    file = options.out / f"figure3_{data.name}.json"
    file.write_text(json.dumps(every, indent=1))
    print(
        f"\nwrote {file}\nwrote {plot_figure3.save(every['curves'], file.with_suffix('.png'))}"
    )
    return every


if __name__ == "__main__":
    main()
