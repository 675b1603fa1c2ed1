"""What do defences of labels leave to an attacker, at what cost? Li et al. 2022, on a table.

Li et al., `Label leakage and protection in two-party split learning
<https://arxiv.org/abs/2102.08504>`_, print for Criteo, dense layers 128-128-128 | 128-128-1, batch
1024: norm AUC at most 0.951 unprotected, 0.739 / 0.617 / 0.558 under Marvell of scale 0.25 / 1 / 4,
0.903 / 0.671 / 0.570 under isotropic noise of ratio 1 / 2.5 / 5. Here the same network learns
another table of two classes through the links of `jsplit.privacy`, and all attacks see what the
client decodes. The strengths of one defence are one program. Clusters of directions, which know no
label, stand beside; the best of the attacks is what a defence is worth.

    python experiments/privacy/defences.py
    # a table of one's own; for its layout see data.py
    python experiments/privacy/defences.py --data credit_default.npz
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optax
from sklearn.metrics import roc_auc_score

import jsplit
from experiments.common import report
from experiments.common.harness import positive, records
from experiments.privacy.labels import BATCH, dense, one_logit
from jsplit.privacy import (
    cosine_attack,
    direction_clusters,
    isotropic,
    label_response,
    marvell,
    max_norm,
    norm_attack,
)

KEY = bytes(range(32))
COLUMNS = (
    "defence",
    "test AUC",
    "norm mean",
    "norm max",
    "cosine",
    "clusters",
    "interval of the best",
)
STRENGTHS = {
    "marvell": (0.0, 0.25, 1.0, 4.0),
    "max_norm": (1.0,),
    "isotropic": (1.0, 2.5, 5.0),
}
MAKERS = {"marvell": marvell, "max_norm": max_norm, "isotropic": isotropic}


def topology(width: int) -> jsplit.Topology:
    bottom = dense([width, 128, 128, 128], "record", "smashed", last=True)
    top = dense([128, 128, 128, 1], "smashed", "output", last=False)
    return jsplit.vanilla(bottom, top, loss=one_logit)


def batches(train: dict, steps: int) -> Iterator[tuple[np.ndarray, dict]]:
    rng, order = np.random.default_rng(0), np.zeros(0, int)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(train["label"]))
        here, order = order[:BATCH], order[BATCH:]
        yield here, {n: x[here] for n, x in train.items()}


def measured(name, trainer, state, data, train, truth, steps) -> dict:
    """Train from a state, and attack what came back to the client."""
    recorded, order = [], []
    for here, fields in batches(train, steps):
        recorded.append(fields)
        order.append(here)
    state, seen = jsplit.privacy.watch(trainer, state, recorded, "client")
    ids = np.concatenate(order)
    label = truth[ids]
    predicted = trainer.predict(state, {"record": data.test["record"]})["output"]
    scores = [
        attack(seen, label, ids=ids)
        for attack in (norm_attack, cosine_attack, direction_clusters)
    ]
    best = max(scores, key=lambda s: s.value)
    return {
        "defence": name,
        "test AUC": float(roc_auc_score(data.test["label"], predicted[:, 0])),
        "norm mean": scores[0].value,
        "norm max": scores[0].more.get("max"),
        "cosine": scores[1].value,
        "clusters": scores[2].value,
        "best": best.attack,
        "interval": best.interval,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="breast_cancer", help="of two classes")
    parser.add_argument("--steps", type=positive, default=69, help="of training")
    parser.add_argument("--out", type=Path, default=Path("results/defences.json"))
    options = parser.parse_args()
    data = records(options.data)
    train = {n: data.train[n] for n in ("record", "label")}
    whole, rows = topology(train["record"].shape[1]), []
    example = {n: x[:BATCH] for n, x in train.items()}

    def run(name, trainer, strength=None, labels=None) -> None:
        state = trainer.init(0, example)
        if strength is not None:
            state = jsplit.set_hyperparams(state, {"defence": strength})
        used = train if labels is None else {**train, "label": labels}
        given = (data, used, train["label"], options.steps)
        rows.append(measured(name, trainer, state, *given))
        print(json.dumps(rows[-1]), flush=True)

    for name, strengths in STRENGTHS.items():
        link = MAKERS[name](jsplit.Strength("defence", 1.0))
        trainer = jsplit.fused(whole, optax.adam(1e-3), links={"smashed": (None, link)})
        for x in strengths:
            run(f"{name} {x:g}", trainer, x)
    for bits in (8, 2):
        link = jsplit.compress.quantize(bits)
        trainer = jsplit.fused(whole, optax.adam(1e-3), links={"smashed": (None, link)})
        run(f"quantize {bits}", trainer)
    plain = jsplit.fused(whole, optax.adam(1e-3))
    run("none", plain)
    ids = range(len(train["label"]))
    for epsilon in (3.0, 1.0):
        said = label_response(train["label"], ids, classes=2, epsilon=epsilon, key=KEY)
        run(f"label response {epsilon:g}", plain, labels=said)
    table = [[row["defence"], *_cells(row)] for row in rows]
    report.table("defences of labels", COLUMNS, table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1))


def _cells(row: dict) -> list[str]:
    low, high = row["interval"]
    numbers = [row[n] for n in COLUMNS[1:-1]]
    return [*(_cell(x) for x in numbers), f"{row['best']} {low:.3f}-{high:.3f}"]


def _cell(x: object) -> str:
    return f"{x:.3f}" if isinstance(x, float) else str(x)


if __name__ == "__main__":
    main()
