"""How do the ways to train together compare, on one harness, with one schema and in one table?

Six configurations of split learning and the algorithms over many clients, beside the whole model,
each party alone, FedAvg and a large batch, and plain PyTorch as split-learning codes write it
where it is installed: accuracy or AUC over seeds, what a client pays, the best attack, and what is
guaranteed. Each data set has a file of rows in the folder `--out`; what is there is not run again,
so a run that was stopped goes on.

    # breast cancer and digits, which scikit-learn bundles
    python experiments/bench/splitbench.py
    # the medical sets, from a folder of `.npz` files; for their layout see common/data.py
    python experiments/bench/splitbench.py --data FOLDER --limit 2000 --seeds 3
    # the tables of what is there, and as Markdown
    python experiments/bench/splitbench.py --table
    python experiments/bench/splitbench.py --markdown
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from experiments.bench.split_bench import clients, configurations, peers, schema
from experiments.bench.split_bench.contestant import Contestant, Setting
from experiments.bench.split_bench.tables import COLUMNS, LEGEND, markdown, tables
from experiments.bench.step import machine
from experiments.common import report
from experiments.common.data import BUNDLED
from experiments.common.harness import positive

MEDICAL = (
    "heart_disease_uci",
    "diabetes130_readmission",
    "pneumoniamnist",
    "mitbih_ecg_beats",
    "mnist",
)
PARTS = ("runs", "costs", "leaks")
LEAST = 0.2  # seconds of a block of timing
Builders = dict[tuple[str, str], Callable[[], Contestant]]


class Rows:
    """The rows of one data set, written after each new one."""

    def __init__(self, file: Path, data: str):
        self.file, self.data = file, data
        self.document = schema.read(file, machine())

    def lacks(self, part: str, *key) -> bool:
        there = {schema.key_of(part, row) for row in self.document[part]}
        return (self.data, *key) not in there

    def add(self, part: str, row: Mapping) -> None:
        schema.check_alike([*self.document[part], row])
        self.document[part].append(dict(row))
        schema.write(self.file, self.document)

    @property
    def rates(self) -> dict[tuple[str, str], float]:
        """Those that were chosen before, by name and system."""
        runs = self.document["runs"]
        return {(r["contestant"], r["system"]): r["rate"] for r in runs}


def measure(
    rows: Rows, builders: Builders, seeds: int, parts: Sequence[str], blocks: int
) -> None:
    """Add what the file lacks: runs first, then costs of all together, then leaks."""
    built: dict[tuple[str, str], Contestant] = {}

    def get(key: tuple[str, str]) -> Contestant:
        if key not in built:
            built[key] = builders[key]()
        return built[key]

    for key in builders if "runs" in parts else ():
        for seed in range(seeds):
            if rows.lacks("runs", *key, seed):
                found = get(key).train(seed)
                rows.add("runs", {**get(key).said, "seed": seed, **found})
                shown(rows.data, key, seed, found)
    new = [k for k in builders if "costs" in parts and rows.lacks("costs", *k)]
    for key, seconds in timed(new, get, blocks).items():
        cost = get(key).cost
        numbers = cost() if cost else dict.fromkeys(UNCOUNTED) | {"notes": ""}
        rows.add("costs", {**get(key).said, **numbers, **seconds})
    for key in builders if "leaks" in parts else ():
        if rows.lacks("leaks", *key):
            leak = get(key).leak
            if leak is not None:
                rows.add("leaks", {**get(key).said, **leak()})
                print(f"{rows.data:18} {', '.join(key):32} attacked", flush=True)


UNCOUNTED = ("client_flops", "client_bytes", "client_memory", "guarantee")


def shown(data: str, key: tuple[str, str], seed: int, found: Mapping) -> None:
    right = found["accuracy"]
    score = "diverged" if right is None else f"accuracy {right:.3f}"
    print(
        f"{data:18} {', '.join(key):32} seed {seed}  rate {found['rate']:g}  "
        f"{score}  {found['seconds_trained']:.1f} s",
        flush=True,
    )


def join(folders: Sequence[Path], out: Path) -> None:
    """Add to the files of a folder the rows of others, as measured on other machines."""
    for file in (f for folder in folders for f in sorted(folder.glob("*.json"))):
        other = schema.read(file, {})
        mine = out / file.name
        found = schema.joined(schema.read(mine, other["machine"]), other)
        schema.write(mine, found)


def timed(
    keys: Sequence[tuple[str, str]],
    get: Callable[[tuple[str, str]], Contestant],
    blocks: int,
) -> dict[tuple[str, str], dict]:
    """Seconds of a pass: contestants in turn, block by block, so that a busy machine slows all."""
    passes, counts = {}, {}
    found: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    for key in keys if blocks else ():
        start = get(key).start
        if start is not None:
            passes[key] = start()
            passes[key]()  # compiles
            began = time.perf_counter()
            passes[key]()
            took = time.perf_counter() - began
            counts[key] = max(1, round(LEAST / max(took, 1e-4)))
    for _ in range(blocks):
        for key, run in passes.items():
            began = time.perf_counter()
            for _ in range(counts[key]):
                run()
            found[key].append((time.perf_counter() - began) / counts[key])
    return {
        key: {
            "seconds": statistics.median(each) if each else None,
            "seconds_low": min(each, default=None),
            "seconds_high": max(each, default=None),
            "blocks": len(each),
        }
        for key, each in found.items()
    }


def builders_of(s: Setting, rows: Rows, only: Sequence[str]) -> Builders:
    """The contestants whose name, or name and system, starts with one of `only`."""
    convolves = s.network not in ("dense", "small")
    chunk = 1 if convolves and jax.default_backend() == "cpu" else None
    every = {
        **configurations.contestants(s),
        **peers.configurations(s),
        **clients.contestants(s, chunk, rows.rates),
        **peers.clients(s, rows.rates),
    }
    return {k: x for k, x in every.items() if ", ".join(k).startswith(tuple(only))}


def setting(name: str, options: argparse.Namespace) -> Setting:
    """What is trained on a data set: a network of convolutions where records have space."""
    space = not name.endswith(tuple(f"{n}.npz" for n in MEDICAL[:2]))
    network = "convolutional" if name not in BUNDLED and space else "small"
    quick = options.quick
    return Setting(
        name,
        epochs=1 if quick else options.epochs,
        rounds=2 if quick else options.rounds,
        batch=options.batch,
        limit=100 if quick else options.limit,
        clients=options.clients,
        network=options.network or network,
        steps=options.steps,
        blocks=1 if quick else options.blocks,
    )


def data_sets(options: argparse.Namespace) -> list[str]:
    """Bundled sets, or the medical ones that are in the folder; `--sets` picks some."""
    if options.data is None:
        every = {name: name for name in BUNDLED}
    else:
        files = [options.data / f"{name}.npz" for name in MEDICAL]
        every = {f.stem: str(f) for f in files if f.exists()}
    return [path for name, path in every.items() if name in (options.sets or every)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="a folder of .npz files; by default bundled sets")
    add("--sets", nargs="+", help="of these only")
    add("--only", nargs="+", default=[""], help="contestants whose names start so")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--seeds", type=positive, default=5)
    add("--epochs", type=positive, default=15, help="of the configurations")
    add("--rounds", type=positive, default=15, help="of the algorithms over clients")
    add("--batch", type=positive, default=32)
    add("--limit", type=positive, default=5000, help="records of each part at most")
    add("--clients", type=positive, default=5, help="where a file names none")
    add("--network", help="of the algorithms over clients")
    add("--steps", type=positive, default=200, help="of each attack")
    add("--blocks", type=int, default=5, help="of interleaved timing; 0: none")
    add("--quick", action="store_true", help="100 records and a pass: does it run?")
    add("--out", type=Path, default=Path("results/splitbench"))
    add("--table", action="store_true", help="only show what is there")
    add("--markdown", action="store_true", help="the same as Markdown")
    rows = "first add the rows of these folders to --out"
    add("--join", type=Path, nargs="+", default=[], help=rows)
    add("--schema", action="store_true", help="print the schema of a file")
    options = parser.parse_args(arguments)
    options.paths = data_sets(options)
    if not options.paths:
        parser.error("argument --data: there is none of " + ", ".join(MEDICAL))
    return options


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    options = parse(arguments)
    if options.schema:
        print(json.dumps(schema.json_schema(), indent=1))
        return []
    join(options.join, options.out)
    if options.table or options.markdown:
        files = sorted(options.out.glob("*.json"))
        documents = [schema.read(file, {}) for file in files]
    else:
        documents = []
        if peers.torch is None:
            print("PyTorch is not installed: its rows are absent.")
        for name in options.paths:
            s = setting(name, options)
            rows = Rows(options.out / f"{Path(name).stem}.json", Path(name).stem)
            builders = builders_of(s, rows, options.only)
            measure(rows, builders, options.seeds, options.parts, s.blocks)
            documents.append(rows.document)
    if options.markdown:
        print(markdown(documents))
        return documents
    for document in documents:
        for title, lines in tables(document):
            report.table(title, COLUMNS, lines)
    print(LEGEND)
    return documents


if __name__ == "__main__":
    main()
