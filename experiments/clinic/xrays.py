"""How many lines does a clinic's whole training take beside its model?

Pneumonia in chest X-rays (PneumoniaMNIST of MedMNIST, Yang et al. 2023) by a residual network of
one's own, cut in a U: images and labels stay at the hospital. With a schedule, weights of classes,
AUC by epoch, early stopping, the best state, a checkpoint from which a killed run goes on, and a
picture. Without a file it takes scikit-learn's digits instead, one digit against the others.

Prints the history, writes `history.png` and `xrays.json` beside the checkpoint; the same command
goes on where it was stopped.

    python experiments/clinic/xrays.py [--data pneumoniamnist.npz] [--epochs 20] [--out results]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import jsplit

BATCH = 64
RARE = 3  # the digit that stands for an illness

Arrays = dict[str, np.ndarray]


class Block(nnx.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        def conv(a: int, b: int, size: int, by: int) -> nnx.Conv:
            return nnx.Conv(
                a,
                b,
                (size, size),
                strides=by,
                padding="SAME",
                use_bias=False,
                rngs=rngs,
            )

        self.first, self.second = (
            conv(inputs, outputs, 3, stride),
            conv(outputs, outputs, 3, 1),
        )
        self.around = conv(inputs, outputs, 1, stride)
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        inner = self.second(nnx.relu(self.norm1(self.first(h))))
        return nnx.relu(self.norm2(inner) + self.around(h))


class ResNet(nnx.Module):
    """Three blocks, of which each halves the image but the first."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.head = Block(1, width, 1, rngs=rngs)
        self.body = nnx.Sequential(
            Block(width, 2 * width, 2, rngs=rngs),
            Block(2 * width, 4 * width, 2, rngs=rngs),
        )
        self.tail = nnx.Linear(4 * width, 2, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.tail(self.body(self.head(image)).mean((1, 2)))


def read(file: Path | None) -> list[Arrays]:
    """Records to train on, to validate and to test."""
    if file is not None:
        found = np.load(file)
        parts = [
            (found[f"x_{p}"] / 255, found[f"y_{p}"]) for p in ("train", "val", "test")
        ]
    else:
        digits = load_digits()
        image, label = digits.images / 16, digits.target == RARE
        parts = [
            (image[i:j], label[i:j]) for i, j in ((0, 1200), (1200, 1500), (1500, 1797))
        ]
    return [
        {"image": x[..., None].astype("float32"), "label": y.ravel().astype("int32")}
        for x, y in parts
    ]


def auc(logits: np.ndarray, label: np.ndarray) -> float:
    """Of all records of a set."""
    return float(roc_auc_score(label, logits[:, 1] - logits[:, 0]))


# All that is needed beside the model and the file; a test counts these lines.
def train(parts: list[Arrays], epochs: int, width: int, out: Path) -> dict:
    """Train, keep the best, and measure it on the test records."""
    records, validation, test = parts
    net = ResNet(width, rngs=nnx.Rngs(0))
    segments = jsplit.split(net, records["image"][:1], cuts=["head", "body"])
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.u_shaped(*segments.values(), loss=loss, client="hospital")
    measure = jsplit.Metric("auc", auc, "hospital", ["output", "label"])
    steps = jsplit.fitting.steps_per_epoch(len(records["label"]), BATCH)
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 2, epochs * steps)
    trainer = jsplit.fused(topology.add(measure), optax.adamw(rate))
    watched = {"monitor": "val_auc", "mode": "max", "patience": 5}
    kept = {"folder": out / "xrays", "callbacks": [jsplit.fitting.Progress(epochs)]}
    balanced = {"validation": validation, "class_weight": "balanced"}
    asked = {"epochs": epochs, "batch": BATCH, **balanced, **watched, **kept}
    fitted = jsplit.fit(trainer, records, **asked)
    print(fitted.history)
    fitted.history.plot().savefig(out / "history.png")
    info = trainer.evaluate(fitted.best, test)
    return {"best": fitted.history.best, "auc": info.metrics["auc"]}


def main(arguments: Sequence[str] | None = None) -> dict:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="an .npz file of MedMNIST")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--records", type=int, help="of each part, at most")
    parser.add_argument("--out", type=Path, default=Path("results"))
    asked = parser.parse_args(arguments)
    parts = [{n: x[: asked.records] for n, x in p.items()} for p in read(asked.data)]
    asked.out.mkdir(parents=True, exist_ok=True)
    row = train(parts, asked.epochs, asked.width, asked.out)
    (asked.out / "xrays.json").write_text(json.dumps(row))
    print(f"test AUC of the best epoch, {row['best']}: {row['auc']:.4f}")
    return row


if __name__ == "__main__":
    main()
