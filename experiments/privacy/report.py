"""What does a training give away, in one call? A report with and without two cheap defences.

Dense layers 64 | 32 or so in a vanilla split, on handwritten digits or on a table of one's own.
Every attack of `jsplit.privacy.attempts()` is run by each party at each cut where its threat
exists; an adversary knows the labels of `--known` records of each class. Beside the plain
training stand two that are often taken for protection: 2 bits a number (quantisation), and
isotropic noise on the cotangents, about as large as the largest of them.

    python experiments/privacy/report.py
    # a third of the records are public, and the ten that are given away most are shown: this
    # report has values of records
    python experiments/privacy/report.py --public 400 --pictures 10
    # two classes, so the attacks by norm and by cosine are run as well; for the layout see data.py
    python experiments/privacy/report.py --data credit_default.npz

Text, Markdown, HTML and JSON are written to results/privacy_report.*
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import jax
import numpy as np
import optax

import jsplit
from experiments.common.harness import positive, records
from experiments.privacy.labels import dense
from jsplit.privacy import Report, isotropic, report

LOSS = optax.softmax_cross_entropy_with_integer_labels


def correct(output: jax.Array, label: jax.Array) -> jax.Array:
    return (output.argmax(-1) == label).astype("float32")


def reported(
    path: str,
    limit: int | None,
    epochs: int,
    known: int,
    steps: int | None,
    public: int,
    pictures: int,
) -> Report:
    """The report of one data set: plain, 2 bits, and noise on cotangents."""
    data = records(path, limit)
    fields = {n: np.asarray(x) for n, x in data.train.items()}
    width = int(np.prod(fields["record"].shape[1:]))
    # An adversary with records of the same kind knows their range as well.
    aside = {n: x[:public] for n, x in fields.items()}
    fields = {n: x[public:] for n, x in fields.items()}
    seen = aside["record"]
    ranges = {"record": (float(seen.min()), float(seen.max()))} if public else None
    classes = int(fields["label"].max()) + 1
    accuracy = jsplit.Loss("accuracy", correct, "server", ["output", "label"], weight=0)
    topology = jsplit.vanilla(
        dense([width, 32], "record", "smashed", last=True),
        dense([32, classes], "smashed", "output", last=False),
        loss=LOSS,
    ).add(accuracy)

    def trainer(**links: object) -> jsplit.Trainer:
        return jsplit.fused(topology, optax.adam(3e-3), links=links or None)

    return report(
        trainer(),
        fields,
        test=data.test,
        known=known,
        epochs=epochs,
        steps=steps,
        public={"record": seen} if public else None,
        ranges=ranges,
        pictures=pictures,
        defences={
            "2 bits": trainer(smashed=jsplit.compress.quantize(2, axis=None)),
            "noise 1": trainer(smashed=(None, isotropic(1.0))),
        },
    )


def written(found: Report, folder: str) -> list[Path]:
    """Write a report in all its forms."""
    stem = Path(folder) / "privacy_report"
    stem.parent.mkdir(parents=True, exist_ok=True)
    forms = {
        ".txt": found.table(),
        ".md": found.markdown(),
        ".html": found.html(),
        ".json": found.json(),
    }
    for ending, text in forms.items():
        stem.with_suffix(ending).write_text(text)
    return [stem.with_suffix(ending) for ending in forms]


def main(arguments: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", help="a data set, or an .npz file")
    parser.add_argument("--limit", type=positive, default=2000, help="records at most")
    parser.add_argument("--epochs", type=positive, default=5)
    parser.add_argument("--known", type=positive, default=4, help="of each class")
    parser.add_argument("--steps", type=positive, default=None, help="of each attack")
    parser.add_argument(
        "--public", type=int, default=0, help="records that are nobody's secret"
    )
    parser.add_argument(
        "--pictures", type=int, default=0, help="of each attack on inputs"
    )
    parser.add_argument("--out", default="results")
    a = parser.parse_args(arguments)
    start = perf_counter()
    found = reported(a.data, a.limit, a.epochs, a.known, a.steps, a.public, a.pictures)
    print(found)
    print(f"{perf_counter() - start:.0f} s;", *written(found, a.out))
    return found


if __name__ == "__main__":
    main()
