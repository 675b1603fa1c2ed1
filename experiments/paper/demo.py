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
from typing import Any

import jax
import numpy as np
import optax

import jsplit
from experiments.common import report
from experiments.common.data import BUNDLED, Data, load
from experiments.common.models import (
    CONFIGURATIONS,
    Family,
    network,
    tasks_of,
    topology,
)
from experiments.paper import plot_demo
from experiments.paper.whole_and_split import (
    EXCHANGED,
    Run,
    batches,
    difference,
    divided,
    exchange,
    records_of,
    seen,
    train,
    whole,
)

# Elementwise, so that one on the whole model is one for each party.
OPTIMIZERS = {"sgd": optax.sgd(0.05, momentum=0.9), "adam": optax.adam(1e-3)}
PACKAGES = ("jsplit", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")

# All runs on one data set.


def compare(
    data: Data, options: argparse.Namespace, start: Callable[[str, int], report.Advance]
) -> list[dict]:
    """A row for the whole model, with one task and with two, and one for each configuration."""
    dtype = "float64" if options.x64 else "float32"
    data = data._replace(train=cast(data.train, dtype), test=cast(data.test, dtype))
    fields = {name: data.train[name].shape[1:] for name in data.owners}
    family = Family(fields, data.owners, data.client, data.tasks, options.seed, dtype)
    optimizer = OPTIMIZERS[options.optimizer]
    common = said_of_all(data, family, options)
    rows, models, wholes = [], {}, {}
    for name in options.configurations:
        tasks = tasks_of(family, name)
        title = "whole" if len(tasks) == 1 else "whole, two tasks"
        # The reference is trained once for all configurations that have its tasks.
        if title not in wholes:
            models[title] = network(family, tasks)
            alone = whole(family, tasks, models[title], optimizer)
            advance = start(f"{data.name:16} {title:16}", common["steps"])
            reference = train(alone, data, tasks, options, advance)
            wholes[title] = reference
            rows.append(row(title, common, tasks, reference, reference))
        parts = topology(family, name, models[title])
        first = next(batches(data, options.batch, options.seed))
        one = divided(jsplit.fused(parts, optimizer), parts, family, tasks, first)
        advance = start(f"{data.name:16} {name:16}", common["steps"])
        run = train(one, data, tasks, options, advance)
        # The curves come from `fused`, which is faster; so many steps are enough to compare the
        # two.
        many = divided(jsplit.messages(parts, optimizer), parts, family, tasks, first)
        count = min(EXCHANGED, common["steps"])
        weights, sent = exchange(many, data, options, count)
        rows.append(
            row(name, common, tasks, run, wholes[title])
            | {
                "whole": title,
                "difference_messages": difference(weights, run.weights[count][0]),
                "steps_messages": count,
                **said_of(sent),
                "sees": seen(parts, sent, first),
            }
        )
    return rows


def said_of_all(data: Data, family: Family, options: argparse.Namespace) -> dict:
    """What is the same in all rows of a data set.

    Raises:
        ValueError: if there are fewer records than a batch has.
    """
    count = records_of(data)
    if options.batch > count:
        raise ValueError(
            f"`batch` is {options.batch}, "
            f"but {data.name} has only {count} training records."
        )
    # What plot_demo.py builds the topologies from, to draw them.
    fields = {name: list(shape) for name, shape in family.fields.items()}
    return {
        "data": data.name,
        "records": [count, len(next(iter(data.test.values())))],
        "second_task": data.second,
        "seed": options.seed,
        "steps": options.steps or options.epochs * (count // options.batch),
        "batch": options.batch,
        "optimizer": options.optimizer,
        "precision": family.dtype,
        "compilation": "light" if bundled(options) else "full",
        "family": {**family._asdict(), "fields": fields},
    }


def row(
    name: str, common: Mapping, tasks: Mapping[str, int], run: Run, reference: Run
) -> dict:
    """A run beside the whole model's."""
    params, statistics = [], []
    for number in run.steps:
        mine, other = run.weights[number], reference.weights[number]
        params.append(difference(mine[0], other[0]))
        statistics.append(difference(mine[1], other[1]))
    return {
        "configuration": name,
        **common,
        "tasks": list(tasks),
        "accuracy": {task: x[-1] for task, x in run.accuracies.items()},
        "loss": run.losses[-1],
        "difference": params[-1],
        "difference_statistics": statistics[-1],
        "curves": {
            "step": run.steps,
            "loss": run.losses,
            "accuracy": run.accuracies,
            "difference": params,
        },
    }


def said_of(sent: Sequence[jsplit.Message]) -> dict[str, Any]:
    """What crossed in a step, for a row."""
    messages = []
    for m in sent:
        messages.append({**m._asdict(), "dtype": str(m.dtype), "shape": list(m.shape)})
    return {
        "bytes_up": sum(m.bytes for m in sent if m.kind == "activation"),
        "bytes_down": sum(m.bytes for m in sent if m.kind == "cotangent"),
        "messages": messages,
    }


def cast(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {
        # Labels stay integers.
        name: x.astype(dtype) if x.dtype.kind == "f" else x
        for name, x in arrays.items()
    }


# What comes out.


def show(rows: Sequence[dict]) -> None:
    """Two tables: how the runs compare, and what each party sees."""
    first = rows[0]
    records = "{} training and {} test records".format(*first["records"])
    title = (
        f"{first['data']}: {records}, {first['steps']} steps of {first['batch']}, "
        f"{first['optimizer']}, {first['precision']}, "
        f"{first['compilation']} compilation"
    )
    columns = ["configuration", "accuracy", "loss", "from whole", "messages"]
    columns += ["bytes up", "bytes down"]
    report.table(title, columns, [cells(r) for r in rows])
    split = [r for r in rows if "whole" in r]
    print(
        "from whole: largest relative difference of a parameter to the whole model's, "
        "after all steps.\n"
        "messages: the same between fused and messages, "
        f"after {split[0]['steps_messages']} steps.\n"
        "bytes: of one step, activations up and cotangents down.\n"
        f"second task ({list(first['family']['tasks'])[1]}): {first['second_task']}.\n"
    )
    views = []
    for r in split:
        for i, (party, view) in enumerate(r["sees"].items()):
            kinds = ("fields", "activations", "cotangents")
            lists = [", ".join(view[kind]) for kind in kinds]
            lists += ["; ".join(view["proven"]) or "none"]
            views.append([r["configuration"] if i == 0 else "", party, *lists])
    columns = ["configuration", "party", "holds"]
    columns += ["receives activations", "receives cotangents", "of these a field"]
    report.table(f"{first['data']}: what each party sees", columns, views)
    print(
        "of these a field: what is proven by the programs of all parties to be a field, "
        "rearranged.\nNone does not say that nothing leaks: activations can often be "
        "inverted.\n"
    )


def cells(r: Mapping) -> list[str]:
    """A line of the first table; the whole model sends nothing, and is not compared."""
    accuracy = " / ".join(f"{a:.3f}" for a in r["accuracy"].values())
    found = [r["configuration"], accuracy, f"{r['loss']:.4f}"]
    if "whole" not in r:
        return [*found, "", "", "", ""]
    found += [f"{r[key]:.2g}" for key in ("difference", "difference_messages")]
    sizes = (r["bytes_up"], r["bytes_down"])
    return found + [f"{size:,}".replace(",", " ") for size in sizes]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage would fill the terminal."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def arguments_of() -> Parser:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    data = "breast_cancer, digits, or the path of an .npz file"
    add("--data", nargs="+", default=list(BUNDLED), help=data)
    names = list(CONFIGURATIONS)
    add("--configurations", nargs="+", default=names, choices=names, metavar="NAME")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive, default=15)
    steps = "number of steps, instead of epochs"
    length.add_argument("--steps", type=positive, help=steps)
    add("--batch", type=positive, default=32)
    add("--optimizer", choices=OPTIMIZERS, default="sgd")
    add("--x64", action="store_true", help="compute in double precision")
    limit = "use at most so many records for training and for testing"
    add("--limit", type=positive, default=5000, help=limit)
    add("--seed", type=int, default=0)
    out = "folder for rows and figures"
    add("--out", type=Path, default=Path("results"), help=out)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with the data loaded: what is wrong is said before anything is trained."""
    parser = arguments_of()
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
    for data in options.loaded:
        if records_of(data) < options.batch:
            parser.error(
                f"argument --batch: {options.batch} is more than the training records "
                f"of {data.name}"
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
    # Put back afterwards: who calls `main` from Python goes on with JAX.
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", wanted or before)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@contextmanager
def kept_programs(folder: Path) -> Iterator[None]:
    """Keep compiled programs in a folder: equal ones are compiled once, and in later runs none.

    A process that has compiled before does not look there any more.
    """
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(folder), 0.0), strict=True):
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    options = parse(arguments)
    # Rounding differs between versions, and with it the last digits of the differences.
    versions = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": str(jax.devices()[0]),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    every = []
    with (
        jax.enable_x64(options.x64),
        light_compilation(bundled(options)),
        kept_programs(options.out / "compiled"),
    ):
        with report.progress() as start:
            results = [compare(data, options, start) for data in options.loaded]
        # Not before all are trained: a bar on the terminal would be drawn over the tables.
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
