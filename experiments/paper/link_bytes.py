"""How accurate is a network that was trained over a cut through fewer bytes?

The paper (Vepakomma et al., Split learning for health, 2018) names model compression as what
split learning would be joined with, and measures none. Here two networks for the digits of
scikit-learn, one dense and one of convolutions, are trained through each link of
`jsplit.compress`, in both directions unless its name says otherwise. They are tested through the
link, where nothing is remembered of a record that was not trained on, and without one. Bytes are
those of the payloads, as `jsplit.messages` sends them, for one record of a batch.

    python experiments/paper/link_bytes.py                # the table, and rows in results/
    python experiments/paper/link_bytes.py --epochs 2 --seeds 1 --networks dense
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import report
from experiments.common.data import digits
from jsplit.compress import (
    cast,
    error_feedback,
    low_rank,
    quantize,
    randomized_top_k,
    temporal_differences,
    top_k,
)

BATCH = 64
RATE = 1e-2
WIDTH = 64  # numbers of a record that cross, in both networks
CLASSES = 10
NETWORKS = ("dense", "convolutional")


class Dense(nnx.Module):
    """Two layers at the client, two at the server."""

    def __init__(self, rngs: nnx.Rngs):
        self.bottom = nnx.Linear(64, WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, 64, rngs=rngs)
        self.head = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        h = nnx.relu(self.bottom(image.reshape(len(image), -1)))
        return self.head(nnx.relu(self.hidden(jsplit.cut(h, "h"))))


class Convolutional(nnx.Module):
    """A strided convolution at the client, [4, 4, 4] numbers of a record cross."""

    def __init__(self, rngs: nnx.Rngs):
        strides = {"strides": (2, 2), "rngs": rngs}
        self.bottom = nnx.Conv(1, 4, (3, 3), **strides)
        self.hidden = nnx.Conv(4, 16, (3, 3), **strides)
        self.head = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        h = jsplit.cut(nnx.relu(self.bottom(image)), "h")
        return self.head(nnx.relu(self.hidden(h)).reshape(len(h), -1))


def links(network: str, records: int) -> dict[str, object]:
    """By name what both the activation and its cotangent go through, or a pair."""
    # One scale for a record: a place of an image has four channels, and a scale two bytes.
    axis = -1 if network == "dense" else (1, 2, 3)

    def few(bits: int) -> jsplit.Link:
        return quantize(bits, axis=axis)

    def nearest(bits: int) -> jsplit.Link:
        # What is corrected later need not be unbiased, but nearer than nothing.
        return quantize(bits, axis=axis, stochastic=False)

    def by_record(link: jsplit.Link) -> jsplit.Link:
        return error_feedback(link, rows="row", records=records)

    def differences(link: jsplit.Link) -> jsplit.Link:
        return temporal_differences(link, rows="row", records=records)

    found: dict[str, object] = {
        "none": None,
        "bfloat16": cast("bfloat16"),
        "8 bits": few(8),
        "4 bits": few(4),
        "2 bits": few(2),
        "2 bits, to the nearest": nearest(2),
        "2 bits, error feedback": by_record(nearest(2)),
        "2 bits, error feedback down": (nearest(2), by_record(nearest(2))),
        "differences in 4 bits": differences(nearest(4)),
        "differences in 2 bits": differences(nearest(2)),
        "differences in 2 bits up, 4 bits down": (differences(nearest(2)), few(4)),
        "top 8 of 64": top_k(8),
        "randomized top 8": randomized_top_k(8),
        "top 8, error feedback": by_record(top_k(8)),
        "top 8, error feedback down": (top_k(8), by_record(top_k(8))),
        "differences, top 8": differences(top_k(8)),
    }
    if network == "dense":
        found["rank 16"] = low_rank(16)
        found["rank 16, 8 bits"] = jsplit.chain(low_rank(16), quantize(8))
        found["rank 8, 8 bits"] = jsplit.chain(low_rank(8), quantize(8))
    else:
        # Along the last axis: of the four channels of a place, so the same at all places.
        found["rank 2 of 4 channels"] = low_rank(2)
        found["rank 1 of 4 channels"] = low_rank(1)
        found["rank 2 of 4 channels, 8 bits"] = jsplit.chain(low_rank(2), few(8))
    return found


def model_of(network: str, seed: int) -> nnx.Module:
    return (Dense if network == "dense" else Convolutional)(nnx.Rngs(seed))


def topology(network: str) -> jsplit.Topology:
    """A client with images and a server with labels; both number the records."""
    model = model_of(network, 0)
    parts = jsplit.split(model, np.zeros((2, 8, 8, 1), np.float32))
    loss = optax.softmax_cross_entropy_with_integer_labels
    made = jsplit.vanilla(*parts.values(), loss=loss, label="digit")
    held = {party: (*fields, "row") for party, fields in made.holds.items()}
    return replace(made, holds=held)


def run(
    network: str, link: object, data: dict[str, dict], options: argparse.Namespace
) -> dict:
    """Train with each seed; accuracies on the test records and bytes of a record each way."""
    train, test = data["train"], data["test"]
    made, optimizer = topology(network), optax.adam(RATE)
    given = None if link is None else {"h": link}
    trainer = jsplit.fused(made, optimizer, links=given)
    plain = jsplit.fused(made, optimizer)
    batch = {f: x[:BATCH] for f, x in train.items()}
    through, without = [], []

    def accuracy(one: jsplit.Trainer, state: jsplit.TrainState) -> float:
        logits = one.predict(state, {"image": test["image"]})["output"]
        return float((jnp.argmax(logits, -1) == test["digit"]).mean())

    for seed in range(options.seeds):
        # Other weights in the same programs.
        weights = nnx.to_pure_dict(nnx.state(model_of(network, seed), nnx.Param))
        state = jsplit.load_variables(trainer.init(seed, batch), weights)
        for epoch in range(options.epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(train["row"]))
            # Records that do not fill a batch have their turn in another epoch.
            for at in range(0, len(order) - BATCH + 1, BATCH):
                own = order[at : at + BATCH]
                state, _ = trainer.step(state, {f: x[own] for f, x in train.items()})
        through.append(accuracy(trainer, state))
        weights, _ = jsplit.variables(state)
        bare = jsplit.load_variables(plain.init(seed, batch), weights)
        without.append(accuracy(plain, bare))
    cost = jsplit.cost(made, batch, links=given, optimizer=optimizer)
    sent = {m.kind: m.bytes / BATCH for m in cost.messages if m.name == "h"}
    return {
        "up": sent["activation"],
        "down": sent["cotangent"],
        "accuracy": through,
        "without": without,
        "memory": {p: x.links for p, x in cost.parties.items()},
    }


def records() -> dict[str, dict]:
    """The digits as fields, numbered."""
    data = digits(seed=0)
    found = {}
    for name, part in (("train", data.train), ("test", data.test)):
        image = np.concatenate([part[f] for f in data.owners], axis=2)
        image = image.reshape(len(image), 8, 8, 1).astype(np.float32)
        found[name] = {
            "image": image,
            "digit": part["digit"],
            "row": np.arange(len(image)),
        }
    return found


def rows_of(found: Sequence[dict]) -> list[list[str]]:
    """The table, one row for each link."""
    rows = []
    for row in found:
        whole = next(
            r for r in found if r["network"] == row["network"] and r["link"] == "none"
        )
        share = (row["up"] + row["down"]) / (whole["up"] + whole["down"])
        through, without = (100 * np.array(row[n]) for n in ("accuracy", "without"))
        rows.append(
            [
                row["network"],
                row["link"],
                f"{row['up']:g}",
                f"{row['down']:g}",
                f"{100 * share:.1f}",
                f"{through.mean():.1f}",
                f"{without.mean():.1f}",
                f"{without.min():.1f} to {without.max():.1f}",
            ]
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--links", nargs="+", help="by their names in the table")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)

    data, found = records(), []
    for network in options.networks:
        for name, link in links(network, len(data["train"]["row"])).items():
            if options.links and name not in (*options.links, "none"):
                continue
            found.append(
                {"network": network, "link": name, **run(network, link, data, options)}
            )
            print("; ".join(rows_of(found)[-1]), flush=True)
    columns = ["network", "link", "bytes up", "down", "% of plain"]
    columns += ["through the link", "without one", "seeds"]
    report.table(
        f"{options.epochs} epochs, {options.seeds} seeds", columns, rows_of(found)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "link_bytes.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
