"""Which algorithm for many clients is best for whom? All of `jsplit.rounds` on one harness.

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

import jsplit
from experiments.common import report
from experiments.common.algorithms import Contestant, algorithms
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
    shown,
    topology,
    trainer,
    unlike,
)
from experiments.paper import plot_compare_rounds
from jsplit import population
from jsplit.population import Population, Round

# Training, and what is measured.


MEASURES = (
    "accuracy",
    "balanced",
    "clients_mean",
    "clients_spread",
    "worst_client",
)


def draw(
    contestant: Contestant, people: Population, train: Mapping, number: int, batch: int
) -> Round:
    """The round of a number, as an algorithm is to have it."""
    if contestant.draw == "global":
        return people.global_batches(train, number, batch=batch)
    whose = people.pooled() if contestant.draw == "pooled" else people
    shuffled = contestant.draw == "shuffled"
    return whose.round(train, number, batch=batch, shuffled=shuffled)


def trained(contestant: Contestant, draws: Sequence[Round], rate: float, seed: int):
    """The state after so many rounds."""
    state = contestant.algorithm.init(seed, draws[0])
    state = jsplit.set_hyperparams(state, {"learning_rate": rate})
    for each in draws:
        state, _ = contestant.algorithm.step(state, each)
    return state


def measured(
    right: np.ndarray, part: Arrays, people: Population, labels: np.ndarray
) -> dict[str, float]:
    """What comes of the records that are classified rightly.

    Args:
        right: whether each record is, [models, records].
        part: the records.
        people: the clients.
        labels: of the training records, by which clients are known where records have no owner.
    """
    label = part["label"]
    right = np.broadcast_to(right, (len(people.sizes), len(label))).astype(float)
    whose = owned(part, people)
    if whose is not None:
        mine = whose.astype(float)
        # Each record judged by the model of whose it is.
        judged = (right * mine).sum(0)
    else:
        mine = weights(label, people, labels)
        judged = right.mean(0)
    # A client may have no record in this part, or none such as its own.
    has = mine.sum(1) > 0
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


def owned(part: Arrays, people: Population) -> np.ndarray | None:
    """Whose each record is, [clients, records], if that is known of all."""
    group = part.get("group", np.zeros(0)).astype(str)
    if not len(group):
        return None
    whose = np.array([group == name for name in people.names])
    # Where clients are drawn (`iid`), their names are those of no group.
    return whose if whose.any(0).all() else None


def weights(label: np.ndarray, people: Population, labels: np.ndarray) -> np.ndarray:
    """How much each record counts to each client, [clients, records]: as its labels are to its."""
    classes = np.arange(max(labels.max(), label.max()) + 1)
    # A class that is not there has no record to be weighted; the bound keeps it from dividing by 0.
    there = np.maximum([(label == c).mean() for c in classes], 1e-12)
    ratios = []
    for own in people.records:
        here = np.array([(labels[own] == c).mean() for c in classes])
        ratios.append(here / there)
    return np.array(ratios)[:, label]


def populations(
    data: Records, clients: int, seed: int
) -> Iterator[tuple[str, Population]]:
    labels, group = data.train["label"], data.train.get("group")
    count = clients if group is None else len(np.unique(group))
    # As many clients as the file has groups, so that the two differ in who has what alone.
    yield "iid", population.iid(len(labels), count, seed)
    yield unlike(data, count, seed)


def compare(
    data: Records,
    options: argparse.Namespace,
    start: Callable[[str, int], report.Advance],
) -> list[dict]:
    """A row for each algorithm on each population."""
    parts = topology(options.network, data)
    cost = cost_of(parts, data, options.batch)
    rows = []
    contestants = algorithms(trainer(parts), chunk_of(options.network))
    for kind, people in populations(data, options.clients, options.seed):
        for title, contestant in contestants.items():
            if not title.startswith(tuple(options.only)):
                continue
            advance = start(f"{data.name:18} {kind:14} {title}", len(RATES) + 1)
            found, draws = one(contestant, people, data, options, advance)
            sent = contestant.bytes(cost, people, draws)
            commonest = np.bincount(data.test["label"]).max() / len(data.test["label"])
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
                    **found,
                    "own_models": contestant.own,
                    "bytes_per_client": float(sent),
                    "majority": float(commonest),
                }
            )
    return rows


def chunk_of(network: str) -> int | None:
    """How many clients run at once: all, or one where a CPU would convolve for many at a time."""
    convolves = network not in ("dense", "small")
    return 1 if convolves and jax.default_backend() == "cpu" else None


def one(
    contestant: Contestant,
    people: Population,
    data: Records,
    options: argparse.Namespace,
    advance: report.Advance,
) -> tuple[dict, list[Round]]:
    """Choose a rate by short runs, and train with it: what is measured, and the rounds.

    Where training diverges nothing is measured, and `diverged` says at what.
    """
    train, labels = fields(data.train), data.train["label"]
    models = len(people.sizes) if contestant.own else None

    def drawn(number: int) -> list[Round]:
        each = range(number)
        return [draw(contestant, people, train, n, options.batch) for n in each]

    def run(rate: float, part: Arrays, draws: Sequence[Round]) -> dict:
        state = trained(contestant, draws, rate, options.seed)
        right = correct(contestant.algorithm.predict, state, part, models)
        return measured(right, part, people, labels)

    first = drawn(max(options.rounds // 3, 1))
    rate, validation = best(lambda r: run(r, data.valid, first)["accuracy"], advance)
    draws, diverged = drawn(options.rounds), ""
    try:
        found = run(rate, data.test, draws)
    except jsplit.NotFinite as error:
        found, diverged = {**dict.fromkeys(MEASURES), "each_client": []}, str(error)
    advance(1, f"rate {rate:g}: {shown(found['accuracy'])}")
    chosen = {"rate": rate, "validation": validation, "diverged": diverged}
    return {**chosen, **found}, draws


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
            *(shown(r[what]) for what in MEASURES),
            f"{r['bytes_per_client'] / 1e6:.3g}",
        ]
        for r in rows
    ]
    report.table(
        f"{first['data']}, {first['population']}: {first['clients']} clients of "
        f"{min(first['records'])} to {max(first['records'])} records, "
        f"{first['rounds']} rounds",
        columns,
        cells,
    )
    print(
        f"  {first['network']} network, batch {first['batch']}; "
        f"always the commonest class: accuracy {first['majority']:.3f}."
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
        "*: each client has a model of its own. Client mean, spread (standard deviation), "
        "worst: on records such as its own."
    )
    every = [row for rows in results for row in rows]
    file = options.out / "compare_rounds.json"
    file.write_text(json.dumps(every, indent=1))
    drawn = plot_compare_rounds.save(every, file.with_suffix(".png"))
    print(f"wrote {file}\nwrote {drawn}")
    return every


if __name__ == "__main__":
    main()
