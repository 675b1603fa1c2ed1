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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax

from experiments.bench.split_bench import clients, configurations, peers, schema
from experiments.bench.split_bench.clock import timed
from experiments.bench.split_bench.contestant import Contestant, Setting
from experiments.bench.split_bench.tables import (
    LEGEND,
    filled,
    markdown,
    placed,
    tables,
)
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
Builders = dict[tuple[str, str], Callable[[], Contestant]]


class Rows:
    """The rows of one data set, written after each new one."""

    def __init__(self, file: Path, data: str):
        self.file, self.data = file, data
        # The kernel's name says nothing of the numbers.
        on = {k: x for k, x in machine().items() if k != "platform"}
        self.document, self.machine = schema.read(file, on), on

    def lacks(self, part: str, *key) -> bool:
        return self.row(part, *key) is None

    def row(self, part: str, *key) -> dict | None:
        """The one that is there, and has not failed."""
        rows = [row for row in self.document[part] if not schema.failed(row)]
        return {schema.key_of(part, row): row for row in rows}.get((self.data, *key))

    def add(self, part: str, row: Mapping) -> None:
        """Add a row, in place of one that failed."""
        key = schema.key_of(part, row)
        kept = [x for x in self.document[part] if schema.key_of(part, x) != key]
        document = {**self.document, part: [*kept, dict(row)]}
        schema.write(self.file, document)
        self.document = document

    @property
    def all(self) -> list[dict]:
        """Those of all parts."""
        return [row for part in PARTS for row in self.document[part]]

    @property
    def rates(self) -> dict[tuple[str, str], float]:
        """Those that were chosen before, by name and system."""
        runs = self.document["runs"]
        chosen = [r for r in runs if r["rate"] is not None]
        return {(r["contestant"], r["system"]): r["rate"] for r in chosen}


def tried(
    what: Callable[[], Mapping], absent: Mapping[str, float | str | None]
) -> dict:
    """What is measured, or `absent` with the reason: a row that fails says so and stops no other.

    Args:
        what: measures, and may raise.
        absent: the fields of a row without numbers.
    """
    try:
        return {"notes": ""} | dict(what())
    except Exception as error:
        return {**absent, "notes": schema.why(error)}


def measure(
    rows: Rows, builders: Builders, seeds: int, parts: Sequence[str], blocks: int
) -> None:
    """Add what the file lacks or has failed: runs, then costs of all together, then leaks."""
    made: dict[tuple[str, str], Contestant] = {}
    unmade: dict[tuple[str, str], str] = {}

    def ready(key: tuple[str, str]) -> bool:
        """Whether it is there; of what cannot be built no row can say how it was trained."""
        if key not in made and key not in unmade:
            try:
                made[key] = builders[key]()
            except Exception as error:
                unmade[key] = schema.why(error)
                print(f"{rows.data:18} {', '.join(key):32} {unmade[key]}", flush=True)
        return key in made

    # Also where nothing is lacking: else a call with more epochs would show those of before.
    checked: set[str] = set()
    for row in rows.all:
        # All rows of one population are alike.
        key = row["contestant"], row["system"]
        if key in builders and row["population"] not in checked and ready(key):
            schema.check_alike([row, made[key].said])
            checked.add(row["population"])
    for key in builders if "runs" in parts else ():
        for seed in range(seeds):
            if rows.lacks("runs", *key, seed) and ready(key):
                found = tried(partial(made[key].train, seed), UNTRAINED)
                rows.add("runs", {**made[key].said, "seed": seed, **found})
                shown(rows.data, key, seed, found)
    # What was counted without a clock is timed later, beside whatever else lacks seconds.
    old = {key: rows.row("costs", *key) for key in builders if "costs" in parts}
    lacking = [k for k, x in old.items() if not x or blocks and schema.untimed(x)]
    new = [k for k in lacking if ready(k) and (made[k].start or old[k] is None)]
    if new and blocks:
        schema.check_machine(rows.document, rows.machine)
    for key, seconds in timed(new, made.__getitem__, blocks).items():
        counted = old[key] or tried(made[key].cost or UNCOUNTED.copy, UNCOUNTED)
        schema.check_alike([*filter(None, [old[key]]), made[key].said])
        notes = "; ".join(filter(None, (seconds["notes"], counted["notes"])))
        row = {**made[key].said, **counted, **seconds, "notes": notes}
        rows.add("costs", row)
    for key in builders if "leaks" in parts else ():
        if rows.lacks("leaks", *key) and ready(key):
            leak = made[key].leak
            if leak is not None:
                found = tried(leak, UNATTACKED)
                rows.add("leaks", {**made[key].said, **found})
                says = found["notes"] if schema.failed(found) else "attacked"
                print(f"{rows.data:18} {', '.join(key):32} {says}", flush=True)


UNTRAINED: dict[str, None] = dict.fromkeys(
    ("rate", "accuracy", "auc", "from_whole", "seconds_trained")
)
UNCOUNTED: dict[str, None] = dict.fromkeys(
    ("client_flops", "client_bytes", "client_memory", "guarantee")
)
UNATTACKED: dict[str, None] = dict.fromkeys(("labels", "inputs"))


def shown(data: str, key: tuple[str, str], seed: int, found: Mapping) -> None:
    said = f"{data:18} {', '.join(key):32} seed {seed}  "
    if found["accuracy"] is None:
        print(f"{said}{found['notes']}", flush=True)
        return
    print(
        f"{said}rate {found['rate']:g}  accuracy {found['accuracy']:.3f}  "
        f"{found['seconds_trained']:.1f} s",
        flush=True,
    )


def join(folders: Sequence[Path], out: Path) -> None:
    """Add to the files of a folder the rows of others, as measured on other machines."""
    for file in (f for folder in folders for f in sorted(folder.glob("*.json"))):
        other = schema.read(file, {})
        mine = out / file.name
        found = schema.joined(schema.read(mine, other["machine"]), other)
        schema.write(mine, found)


def builders_of(s: Setting, rows: Rows, only: Sequence[str]) -> Builders:
    """The contestants whose name, or name and system, starts with one of `only`."""
    convolves = s.network not in ("dense", "small")
    chunk = 1 if convolves and jax.default_backend() == "cpu" else None
    every = configurations.contestants(s)
    if s.dtype == "float32":
        every |= peers.configurations(s)
        every |= clients.contestants(s, chunk, rows.rates)
        every |= peers.clients(s, rows.rates)
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
        dtype="float64" if options.x64 else "float32",
        kernels=options.kernels,
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
    add("--x64", action="store_true", help="configurations alone, in double precision")
    add("--kernels", choices=("fast", "xla"), default="fast", help="of configurations")
    add("--quick", action="store_true", help="100 records and a pass: does it run?")
    add("--out", type=Path, default=Path("results/splitbench"))
    add("--table", action="store_true", help="only show what is there")
    add("--markdown", action="store_true", help="the same as Markdown")
    add("--page", type=Path, help="a page, to set the tables between its marks")
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
    if options.table or options.markdown or options.page:
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
            with jax.enable_x64(options.x64):
                measure(rows, builders, options.seeds, options.parts, s.blocks)
            documents.append(rows.document)
    if options.page:
        page = placed(options.page.read_text(), markdown(documents))
        options.page.write_text(page)
        return documents
    if options.markdown:
        print(markdown(documents))
        return documents
    for document in documents:
        for title, lines in tables(document):
            report.table(title, *filled(lines))
    print(LEGEND)
    return documents


if __name__ == "__main__":
    main()
