"""Which way to train many clients together is best for whom? All of `jsplit.rounds` on one
harness.

Every algorithm trains the same network from the same seed, by plain SGD, for equally many rounds
of one pass over the same records: take_turns (Gupta and Raskar 2018; Vepakomma et al. 2018),
parallel (Jeon and Kim 2020), GPSL (Kohankhaki et al. 2024), SplitFed 1, 2 and 3 (Thapa et al.
2022; Gawali et al. 2021), FedAvg (McMahan et al. 2017), with Adam at the server (Reddi et al.
2021), large-batch SGD (Chen et al. 2016), all records in one place, and every client alone.
`jsplit.rounds` says what each is. Rates are chosen as in figure3.py. The clients are alike
(`iid`), and then as they are: the hospitals or patients that the file names, or else labels
skewed by a Dirichlet distribution.

Measured on test data: accuracy over all records, and its mean over classes (`balanced`), where
clients have models of their own each record judged by the model of whose it is, or else by all
models on average; then the accuracy of each client on records such as its own: its own where the
file says whose they are, or else all of them, weighted to the labels that it trains on. And the
bytes that cross to and from a client in all rounds, frames included, on average. Some algorithms
are the same under two names (both hand-offs; SplitFed 1 and FedAvg; parallel with a shared bottom
and large-batch SGD) and differ by rounding at most, which training at a high rate may amplify.

    python experiments/paper/compare_rounds.py                                  # digits
    # files of one's own; for their layout see data.py
    python experiments/paper/compare_rounds.py --data heart.npz mnist.npz
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.common import report
from experiments.common.algorithms import Way, ways
from experiments.common.data import BUNDLED, Arrays
from experiments.common.harness import (
    NETWORKS,
    RATES,
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
from experiments.paper import plot_compare_rounds
from jsplit import population
from jsplit.population import Population, Round

ALPHA = 0.3
LEAST = 10  # records of a client, where labels are skewed


# Training, and what is measured.


def trained(
    way: Way,
    people: Population,
    train: Mapping,
    rate: float,
    seed: int,
    number: int,
    batch: int,
):
    """The state after `number` rounds, and the rounds."""

    def draw(n: int) -> Round:
        if way.draw == "global":
            return people.global_batches(train, n, batch=batch)
        return (people.pooled() if way.draw == "pooled" else people).round(
            train, n, batch=batch, shuffled=way.draw == "shuffled"
        )

    draws = [draw(n) for n in range(number)]
    state = with_rate(way.algorithm.init(seed, draws[0]), rate)
    for each in draws:
        state, _ = way.algorithm.step(state, each)
    return state, draws


def measured(
    right: np.ndarray, part: Arrays, people: Population, labels: np.ndarray
) -> dict[str, float]:
    """What comes of `right`, [models, records], whether each record of `part` is classified
    rightly.
    """
    label, group = part["label"], part.get("group", np.zeros(0)).astype(str)
    right = np.broadcast_to(right, (len(people.sizes), len(label))).astype(float)
    whose = (
        np.array([group == name for name in people.names])
        if len(group)
        else np.zeros((1, 1), bool)
    )
    if whose.any(0).all():
        mine = whose.astype(float)
        judged = (right * mine).sum(0)
    else:
        classes = np.arange(max(labels.max(), label.max()) + 1)
        there = np.maximum([(label == c).mean() for c in classes], 1e-12)
        mine = np.array(
            [
                [(labels[own] == c).mean() for c in classes] / there
                for own in people.records
            ]
        )[:, label]
        judged = right.mean(0)
    has = (
        mine.sum(1) > 0
    )  # a client may have no record in this part, or none such as its own
    each = (right * mine).sum(1)[has] / mine.sum(1)[has]
    balanced = np.mean([judged[label == c].mean() for c in np.unique(label)])
    return {
        "accuracy": float(judged.mean()),
        "balanced": float(balanced),
        "clients_mean": float(each.mean()),
        "clients_spread": float(each.std()),
        "worst_client": float(each.min()),
        "each_client": each.tolist(),
    }


def populations(
    data: Records, clients: int, seed: int
) -> Iterator[tuple[str, Population]]:
    labels, group = data.train["label"], data.train.get("group")
    count = clients if group is None else len(np.unique(group))
    yield "iid", population.iid(len(labels), count, seed)
    if group is None:
        yield (
            f"Dirichlet({ALPHA:g})",
            population.dirichlet(labels, count, ALPHA, seed, LEAST),
        )
    else:
        yield f"by {data.grouping}", population.grouped(group, seed)


def compare(
    data: Records,
    options: argparse.Namespace,
    start: Callable[[str, int], report.Advance],
) -> list[dict]:
    parts = topology(options.network, data)
    cost = cost_of(parts, data, options.batch)
    train, labels = fields(data.train), data.train["label"]
    chunk = (
        1
        if options.network not in ("dense", "small") and jax.default_backend() == "cpu"
        else None
    )
    every = {
        title: way
        for title, way in ways(trainer(parts), chunk).items()
        if title.startswith(tuple(options.only))
    }
    rows = []
    for kind, people in populations(data, options.clients, options.seed):
        for title, way in every.items():
            advance = start(f"{data.name:18} {kind:14} {title}", len(RATES) + 1)
            models = len(people.sizes) if way.own else None

            def run(
                rate: float,
                part: Arrays,
                number: int,
                way=way,
                people=people,
                models=models,
            ):
                state, draws = trained(
                    way, people, train, rate, options.seed, number, options.batch
                )
                return measured(
                    correct(way.algorithm.predict, state, part, models),
                    part,
                    people,
                    labels,
                ), draws

            short = max(options.rounds // 3, 1)
            rate, validation = best(
                lambda r, run=run, n=short: run(r, data.valid, n)[0]["accuracy"],
                advance,
            )
            found, draws = run(rate, data.test, options.rounds)
            advance(1, f"rate {rate:g}: {found['accuracy']:.3f}")
            rows.append(
                {
                    "data": data.name,
                    "network": options.network,
                    "population": kind,
                    "clients": len(people.sizes),
                    "records": [min(people.sizes), max(people.sizes)],
                    "algorithm": title,
                    "seed": options.seed,
                    "batch": options.batch,
                    "rounds": options.rounds,
                    "rate": rate,
                    "validation": validation,
                    **found,
                    "own_models": way.own,
                    "bytes_per_client": float(way.bytes(cost, people, draws)),
                    "majority": float(
                        np.bincount(data.test["label"]).max() / len(data.test["label"])
                    ),
                }
            )
    return rows


def show(rows: Sequence[Mapping]) -> None:
    first = rows[0]
    columns = [
        "algorithm",
        "rate",
        "accuracy",
        "balanced",
        "client mean",
        "spread",
        "worst client",
        "MB a client",
    ]
    cells = [
        [
            r["algorithm"] + (" *" if r["own_models"] else ""),
            f"{r['rate']:g}",
            f"{r['accuracy']:.3f}",
            f"{r['balanced']:.3f}",
            f"{r['clients_mean']:.3f}",
            f"{r['clients_spread']:.3f}",
            f"{r['worst_client']:.3f}",
            f"{r['bytes_per_client'] / 1e6:.3g}",
        ]
        for r in rows
    ]
    title = f"{first['data']}, {first['population']}: {first['clients']} clients of {min(first['records'])} to "
    report.table(
        f"{title}{max(first['records'])} records, {first['rounds']} rounds",
        columns,
        cells,
    )
    print(
        f"  {first['network']} network, batch {first['batch']}; always the commonest class: accuracy {first['majority']:.3f}."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data",
        nargs="+",
        default=["digits"],
        help=f"{', '.join(BUNDLED)}, or the path of an .npz file",
    )
    parser.add_argument(
        "--network",
        default="dense",
        choices=NETWORKS,
        metavar="NAME",
        help=", ".join(NETWORKS),
    )
    parser.add_argument(
        "--clients", type=positive, default=20, help="where the file names none"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="WORD",
        help="algorithms whose names start so",
    )
    parser.add_argument("--rounds", type=positive, default=20)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument(
        "--limit",
        type=positive,
        default=5000,
        help="use at most so many records for training and for testing",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for rows and figure"
    )
    options = parser.parse_args(arguments)
    try:
        options.loaded = [
            records(name, options.limit, options.seed) for name in options.data
        ]
    except ValueError as e:
        parser.error(f"argument --data: {e}")
    return options


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with report.progress() as start:
        results = [compare(data, options, start) for data in options.loaded]
    for rows in results:
        for kind in dict.fromkeys(r["population"] for r in rows):
            show([r for r in rows if r["population"] == kind])
    print(
        "*: each client has a model of its own. Client mean, spread (standard deviation), worst: on records such as its own."
    )
    every = [row for rows in results for row in rows]
    file = options.out / "compare_rounds.json"
    file.write_text(json.dumps(every, indent=1))
    print(
        f"wrote {file}\nwrote {plot_compare_rounds.save(every, file.with_suffix('.png'))}"
    )
    return every


if __name__ == "__main__":
    main()
