"""Does training split equal training whole, in all six configurations, on real data?

Vepakomma, Gupta, Swedish and Raskar, `Split learning for health
<https://arxiv.org/abs/1812.00564>`_, 2018, draw six ways in which hospitals, labs and servers
train one network together (Figures 2 and 4). Here each is the same network, cut elsewhere,
trained from the same seed on the same batches; next to them that network is trained whole, in
Flax and Optax alone. Since both compute the same thing, learning curves lie on one another and
parameters differ by rounding only.

    # breast cancer and digits, which scikit-learn bundles
    python experiments/paper/demo.py
    # data of one's own; for its layout see data.py
    python experiments/paper/demo.py --data scans.npz --epochs 5
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import report
from experiments.common.data import BUNDLED, Data, load
from experiments.common.models import (
    CONFIGURATIONS,
    Family,
    cross_entropy,
    network,
    tasks_of,
    topology,
)
from experiments.paper import plot_demo

OPTIMIZERS = {
    "sgd": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(1e-3),
}  # elementwise: one on the whole is one per party
EXCHANGED = 10  # steps that are trained a second time, party by party, with every message recorded
PACKAGES = ("jsplit", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")

Weights = dict[str, np.ndarray]


class Algorithm(NamedTuple):
    """What is compared, under one signature: `step(state, batch) -> (state, loss)`,
    `predict(state, batch) -> {task: logits}`, and `weights(state)`, parameters and statistics
    by path.
    """

    state: Any
    step: Callable
    predict: Callable
    weights: Callable[[Any], tuple[Weights, Weights]]


class Run(NamedTuple):
    """A run as it is plotted: one entry for each epoch, and the weights after `EXCHANGED` steps
    and after each epoch.
    """

    steps: list[int]
    losses: list[float]
    accuracies: dict[str, list[float]]
    weights: dict[int, tuple[Weights, Weights]]


# The network whole: Flax and Optax, nothing of jsplit.


def whole(
    family: Family,
    tasks: Mapping[str, int],
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
) -> Algorithm:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    seed = jax.random.key(family.seed)

    @jax.jit
    def step(state, batch):
        params, rest, memory, number = state

        def objective(params):
            model = nnx.merge(graph, params, rest, copy=True)
            nnx.reseed(model, dropout=jax.random.fold_in(seed, number))
            model.train()
            logits = model(*[batch[name] for name in family.fields])
            loss = sum(
                cross_entropy(logits[f"{task}_logits"], batch[task]).mean()
                for task in tasks
            )
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), rest, memory, number + 1), loss

    @jax.jit
    def predict(state, batch):
        model = nnx.merge(graph, *state[:2], copy=True)
        model.eval()
        logits = model(*[batch[name] for name in family.fields])
        return {task: logits[f"{task}_logits"] for task in tasks}

    def weights(state):
        return flat(nnx.to_pure_dict(state[0])), flat(
            nnx.to_pure_dict(nnx.filter_state(state[1], nnx.BatchStat))
        )

    return Algorithm((params, rest, optimizer.init(params), 0), step, predict, weights)


# The network divided over parties.


def divided(
    trainer: jsplit.Trainer,
    parts: jsplit.Topology,
    family: Family,
    tasks: Mapping[str, int],
    batch: Mapping[str, np.ndarray],
) -> Algorithm:
    def predict(state, batch):
        logits = trainer.predict(state, {name: batch[name] for name in family.fields})
        return {task: logits[f"{task}_logits"] for task in tasks}

    def weights(state):
        parties = state.parties.values()
        return (
            flat(
                jsplit.merge(
                    *[part for party in parties for part in party.params.values()]
                )
            ),
            flat(
                jsplit.merge(
                    *[part for party in parties for part in party.state.values()]
                )
            ),
        )

    first = trainer.init(
        jax.random.key(family.seed), {name: batch[name] for name in parts.fields}
    )
    return Algorithm(
        first,
        lambda state, batch: trainer.step(state, {n: batch[n] for n in parts.fields}),
        predict,
        weights,
    )


def flat(tree: Mapping) -> Weights:
    return {
        jax.tree_util.keystr(path): np.array(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def difference(found: Weights, expected: Weights) -> float:
    """The largest difference of any array, relative to the largest entry of that array."""
    if found.keys() != expected.keys():
        raise ValueError(
            f"the models differ in {sorted(found.keys() ^ expected.keys())}."
        )
    return max(
        float(np.abs(found[k] - x).max() / (np.abs(x).max() or 1.0))
        for k, x in expected.items()
    )


# One run, the same loop for all.


def batches(data: Data, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end; which records they hold is a function of the seed and the epoch."""
    count, epoch = len(next(iter(data.train.values()))), 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for start in range(0, count - size + 1, size):
            yield {
                name: x[order[start : start + size]] for name, x in data.train.items()
            }
        epoch += 1


def train(
    algorithm: Algorithm,
    data: Data,
    tasks: Mapping[str, int],
    options: argparse.Namespace,
    advance: report.Advance,
) -> Run:
    each = len(next(iter(data.train.values()))) // options.batch
    total = options.steps or options.epochs * each
    run, state, losses = (
        Run([], [], {task: [] for task in tasks}, {}),
        algorithm.state,
        [],
    )
    for number, batch in zip(
        range(1, total + 1), batches(data, options.batch, options.seed), strict=False
    ):
        state, info = algorithm.step(state, batch)
        losses.append(info.loss if isinstance(info, jsplit.Info) else info)
        if number == EXCHANGED:
            run.weights[number] = algorithm.weights(state)
        if number % each == 0 or number == total:
            logits = algorithm.predict(state, data.test)
            for task in tasks:
                run.accuracies[task].append(
                    float((np.argmax(logits[task], axis=-1) == data.test[task]).mean())
                )
            run.steps.append(number)
            run.losses.append(float(np.mean(jax.device_get(losses))))
            run.weights[number] = algorithm.weights(state)
            accuracy = next(iter(run.accuracies.values()))[-1]
            advance(len(losses), f"loss {run.losses[-1]:.4f}  accuracy {accuracy:.3f}")
            losses = []
    return run


def exchange(
    algorithm: Algorithm, data: Data, options: argparse.Namespace, count: int
) -> tuple[Weights, list[jsplit.Message]]:
    """The first `count` steps again, party by party: the parameters at the end, and what crossed
    in the last step.
    """
    state = algorithm.state
    for _, batch in zip(
        range(count), batches(data, options.batch, options.seed), strict=False
    ):
        state, info = algorithm.step(state, batch)
    return algorithm.weights(state)[0], list(info.messages)


def seen(
    parts: jsplit.Topology, sent: Sequence[jsplit.Message]
) -> dict[str, dict[str, list[str]]]:
    """By party: the fields it holds, and the activations and cotangents that reached it."""
    return {
        party: {
            "fields": list(parts.holds.get(party, ())),
            "activations": [
                f"{m.name} of {m.sender}"
                for m in sent
                if m.receiver == party and m.kind == "activation"
            ],
            "cotangents": [
                f"{m.name} of {m.sender}"
                for m in sent
                if m.receiver == party and m.kind == "cotangent"
            ],
        }
        for party in parts.parties
    }


# All runs on one data set.


def compare(
    data: Data, options: argparse.Namespace, start: Callable[[str, int], report.Advance]
) -> list[dict]:
    dtype = "float64" if options.x64 else "float32"
    data = data._replace(train=cast(data.train, dtype), test=cast(data.test, dtype))
    fields = {name: data.train[name].shape[1:] for name in data.owners}
    family = Family(fields, data.owners, data.client, data.tasks, options.seed, dtype)
    optimizer = OPTIMIZERS[options.optimizer]
    count = len(next(iter(data.train.values())))
    if options.batch > count:
        raise ValueError(
            f"`batch` is {options.batch}, but {data.name} has only {count} training records."
        )
    total = options.steps or options.epochs * (count // options.batch)
    first = next(batches(data, options.batch, options.seed))
    rows, models, wholes = [], {}, {}
    common = {
        "data": data.name,
        "records": [count, len(next(iter(data.test.values())))],
        "second_task": data.second,
        "seed": options.seed,
        "steps": total,
        "batch": options.batch,
        "optimizer": options.optimizer,
        "precision": dtype,
        "compilation": "light" if bundled(options) else "full",
    }

    def row(
        name: str, tasks: Mapping[str, int], run: Run, reference: Run, **more
    ) -> dict:
        pairs = [(run.weights[n], reference.weights[n]) for n in run.steps]
        return {
            "configuration": name,
            **common,
            "tasks": list(tasks),
            "accuracy": {task: x[-1] for task, x in run.accuracies.items()},
            "loss": run.losses[-1],
            "difference": difference(pairs[-1][0][0], pairs[-1][1][0]),
            "difference_statistics": difference(pairs[-1][0][1], pairs[-1][1][1]),
            **more,
            "curves": {
                "step": run.steps,
                "loss": run.losses,
                "accuracy": run.accuracies,
                "difference": [difference(a[0], b[0]) for a, b in pairs],
            },
        }

    for name in options.configurations:
        tasks = tasks_of(family, name)
        title = "whole" if len(tasks) == 1 else "whole, two tasks"
        if title not in wholes:
            models[title] = network(family, tasks)
            alone = whole(family, tasks, models[title], optimizer)
            wholes[title] = train(
                alone, data, tasks, options, start(f"{data.name:16} {title:16}", total)
            )
            rows.append(row(title, tasks, wholes[title], wholes[title]))
        parts = topology(family, name, models[title])
        one = divided(jsplit.fused(parts, optimizer), parts, family, tasks, first)
        run = train(
            one, data, tasks, options, start(f"{data.name:16} {name:16}", total)
        )
        many = divided(jsplit.messages(parts, optimizer), parts, family, tasks, first)
        exchanged = min(EXCHANGED, total)
        weights, sent = exchange(many, data, options, exchanged)
        rows.append(
            row(
                name,
                tasks,
                run,
                wholes[title],
                whole=title,
                difference_messages=difference(weights, run.weights[exchanged][0]),
                steps_messages=exchanged,
                bytes_up=sum(m.bytes for m in sent if m.kind == "activation"),
                bytes_down=sum(m.bytes for m in sent if m.kind == "cotangent"),
                messages=[
                    {**m._asdict(), "dtype": str(m.dtype), "shape": list(m.shape)}
                    for m in sent
                ],
                sees=seen(parts, sent),
            )
        )
    for one in rows:
        one["family"] = {
            **family._asdict(),
            "fields": {k: list(v) for k, v in fields.items()},
        }
    return rows


def cast(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {
        name: x.astype(dtype) if x.dtype.kind == "f" else x
        for name, x in arrays.items()
    }


# What comes out.


def show(rows: Sequence[dict]) -> None:
    first = rows[0]
    records = "{} training and {} test records".format(*first["records"])
    title = (
        f"{first['data']}: {records}, {first['steps']} steps of {first['batch']}, {first['optimizer']}, "
        f"{first['precision']}, {first['compilation']} compilation"
    )
    columns = [
        "configuration",
        "accuracy",
        "loss",
        "from whole",
        "messages",
        "bytes up",
        "bytes down",
    ]
    cells = [
        [
            r["configuration"],
            " / ".join(f"{a:.3f}" for a in r["accuracy"].values()),
            f"{r['loss']:.4f}",
            f"{r['difference']:.1e}" if "whole" in r else "",
            f"{r['difference_messages']:.1e}" if "whole" in r else "",
            f"{r['bytes_up']:,}".replace(",", " ") if "whole" in r else "",
            f"{r['bytes_down']:,}".replace(",", " ") if "whole" in r else "",
        ]
        for r in rows
    ]
    report.table(title, columns, cells)
    split = [r for r in rows if "whole" in r]
    print(
        f"from whole: largest relative difference of a parameter to the whole model's, after all steps.\n"
        f"messages: the same between fused and messages, after {split[0]['steps_messages']} steps.\n"
        f"bytes: of one step, activations up and cotangents down.\n"
        f"second task ({list(first['family']['tasks'])[1]}): {first['second_task']}.\n"
    )
    columns = [
        "configuration",
        "party",
        "holds",
        "receives activations",
        "receives cotangents",
    ]
    cells = [
        [
            r["configuration"] if i == 0 else "",
            party,
            *(", ".join(view[k]) for k in ("fields", "activations", "cotangents")),
        ]
        for r in split
        for i, (party, view) in enumerate(r["sees"].items())
    ]
    report.table(f"{first['data']}: what each party sees", columns, cells)
    print()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str):
            self.exit(2, f"{self.prog}: {message}\n")

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(
                f"expected a positive integer, got {text!r}"
            )
        return int(text)

    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(BUNDLED),
        help="breast_cancer, digits, or the path of an .npz file",
    )
    parser.add_argument(
        "--configurations",
        nargs="+",
        default=list(CONFIGURATIONS),
        choices=CONFIGURATIONS,
        metavar="NAME",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive, default=15)
    length.add_argument(
        "--steps", type=positive, help="number of steps, instead of epochs"
    )
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument(
        "--x64", action="store_true", help="compute in double precision"
    )
    parser.add_argument(
        "--limit",
        type=positive,
        default=5000,
        help="use at most so many records for training and for testing",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for rows and figures"
    )
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(
            f"argument --seed: expected an integer from 0 on, got {options.seed}"
        )
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"argument --out: {options.out} is not a folder")
    try:
        options.loaded = [
            load(name, options.limit, options.seed) for name in options.data
        ]
    except ValueError as e:
        parser.error(f"argument --data: {e}")
    if too_few := [
        d.name
        for d in options.loaded
        if len(d.train[next(iter(d.tasks))]) < options.batch
    ]:
        parser.error(
            f"argument --batch: {options.batch} is more than the training records of {too_few[0]}"
        )
    return options


def bundled(options: argparse.Namespace) -> bool:
    return all(name in BUNDLED for name in options.data)


@contextmanager
def light_compilation(wanted: bool) -> Iterator[None]:
    """Have XLA optimise little: on small data compiling takes far longer than training.

    It also lets programs that are compiled apart, as those of the parties are, round alike more
    often.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", wanted or before)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    options = parse(arguments)
    versions = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": str(jax.devices()[0]),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    every = []
    with jax.enable_x64(options.x64), light_compilation(bundled(options)):
        with report.progress() as start:
            results = [compare(data, options, start) for data in options.loaded]
        for rows in results:
            show(rows)
            every += [{**row, "versions": versions} for row in rows]
        file = options.out / "demo.json"
        file.write_text(json.dumps(every, indent=1))
        for written in (file, *plot_demo.figures(every, options.out)):
            print(f"wrote {written}")
    return every


if __name__ == "__main__":
    main()
