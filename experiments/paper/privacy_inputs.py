"""What do activations give away of pictures, by depth of the cut? The rows of privacy.py on inputs.

Two convolutions and a dense layer, cut after one of the three, and one linear layer as a top. At
each cut the network is trained plainly, with NoPeek, with clipping and secret Gaussian noise, or
with few bits of each number. The server decodes what comes: by a decoder that learned on public
records, whose activations cross the same link, and by UnSplit from the form of the bottom alone.
Nothing is promised of any of these trainings: the bottom is fitted to the records themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.common.harness import Records
from experiments.privacy.inputs import bottom, seen, top
from jsplit.privacy import (
    Inversion,
    decoder_attack,
    dependence,
    gaussian,
    nopeek,
    unsplit_inversion,
)

BATCH = 128  # of training
FEW = 16  # records that UnSplit inverts at once
RANGE = (0.0, 1.0)
CUTS = {
    "conv 1, tanh": ("conv 1", jnp.tanh),
    "conv 1": ("conv 1", jax.nn.relu),
    "conv 2": ("conv 2", jax.nn.relu),
    "dense 64": ("dense", jax.nn.relu),
}
NOPEEK, CLIP, NOISE, BITS = 5.0, 8.0, 0.1, 2
PICTURED = 10


class Defence(NamedTuple):
    """One row of a table.

    Attributes:
        name: with its strength.
        trainer: shared by strengths and seeds.
        strengths: what is set of it.
    """

    name: str
    trainer: jsplit.Trainer
    strengths: dict[str, float]


class Pictures(NamedTuple):
    """Sets of digits for training, attacking and testing, in (0, 1).

    Attributes:
        private: records that train.
        public: records of the same kind.
        test: records that neither has.
    """

    private: dict[str, np.ndarray]
    public: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def pictures(data: Records) -> Pictures:
    """Half of the training records is the adversary's."""
    low, high = data.train["record"].min(), data.train["record"].max()

    def plain(part: dict, which: slice) -> dict[str, np.ndarray]:
        x = part["record"][which][..., 0]
        x = ((x - low) / (high - low)).clip(0, 1).astype("float32")
        return {"record": x, "label": part["label"][which].astype("int32")}

    half = len(data.train["label"]) // 2
    parts = (data.train, slice(half)), (data.train, slice(half, 2 * half))
    return Pictures(*(plain(*of) for of in (*parts, (data.test, slice(None)))))


def defences(part: jsplit.Segment) -> Iterator[Defence]:
    """All of them, at one cut; without NoPeek its program is the plain run, bit for bit."""
    classes = optax.softmax_cross_entropy_with_integer_labels
    whole = jsplit.vanilla(part, top(), loss=classes)
    rate = optax.adam(2e-3)
    weight = jsplit.Strength("nopeek", 0.0)
    penalised = whole.add(nopeek("record", "smashed", "client", weight))
    trainer = jsplit.fused(penalised, rate)
    yield Defence("none", trainer, {"nopeek": 0.0})
    yield Defence(f"nopeek {NOPEEK:g}", trainer, {"nopeek": NOPEEK})
    for name, link in (
        (f"gaussian {CLIP:g} x {NOISE:g}", gaussian(CLIP, NOISE)),
        (f"quantize {BITS}", jsplit.compress.quantize(BITS, axis=None)),
    ):
        yield Defence(
            name, jsplit.fused(whole, rate, links={"smashed": (link, None)}), {}
        )


def inputs(
    load: Callable[[int], Records],
    seeds: int,
    cuts: list[str],
    budget: dict[str, int],
    said: Callable[[dict], None],
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Train at each cut with each defence and seed, and decode what came to the server.

    Args:
        load: records, by seed.
        seeds: how many.
        cuts: names of `CUTS`.
        budget: steps of "training", of the "decoder" and of "unsplit".
        said: what is done with a row as soon as it is there.

    Returns:
        A row for each cut, defence and seed; and of the last cut and seed 0 originals, and what
        the decoder took them for under each defence, [records, height, width].
    """
    every, rows, shown = [pictures(load(seed)) for seed in range(seeds)], [], {}
    for cut in cuts:
        form, activation = CUTS[cut]
        part = bottom(form, activation)
        for defence in defences(part):
            # What the activation does to UnSplit is asked of the plain run alone.
            if activation is jnp.tanh and defence.name != "none":
                continue
            for seed, data in enumerate(every):
                row, decoded = attacked(defence, part, data, seed, budget)
                rows.append({"part": "inputs", "cut": cut, **row})
                said(rows[-1])
                if cut == cuts[-1] and seed == 0:
                    shown |= {"original": data.private["record"][:PICTURED]}
                    shown |= {defence.name: decoded.reconstructed[:PICTURED]}
    return rows, shown


def attacked(
    defence: Defence,
    part: jsplit.Segment,
    data: Pictures,
    seed: int,
    budget: dict[str, int],
) -> tuple[dict, Inversion]:
    """One training, and both attacks on what the server decodes afterwards."""
    start, rng = perf_counter(), np.random.default_rng(seed)
    x, trainer = data.private["record"], defence.trainer
    state = trainer.init(seed, {n: a[:BATCH] for n, a in data.private.items()})
    if defence.strengths:
        state = jsplit.set_hyperparams(state, defence.strengths)
    for _ in range(budget["training"]):
        here = rng.choice(len(x), BATCH, replace=False)
        state, _ = trainer.step(state, {n: a[here] for n, a in data.private.items()})

    def sent(record: np.ndarray) -> jax.Array:
        return trainer.predict(state, {"record": record}, at="smashed")["smashed"]

    guess = trainer.predict(state, {"record": data.test["record"]})["output"]
    utility = float(np.mean(guess.argmax(-1) == data.test["label"]))
    seconds, key = perf_counter() - start, jax.random.key(seed)
    # One crossing is attacked and measured, as a server sees it: noise is another in each.
    h = sent(x)
    public = data.public["record"]
    steps, few = budget["decoder"], x[:FEW]
    decoded = decoder_attack(
        *(seen(h), x, public, sent(public)), data_range=RANGE, steps=steps, key=key
    )
    turns = budget["unsplit"]
    unsplit = unsplit_inversion(
        seen(h[:FEW]), few, part, data_range=RANGE, steps=turns, key=key
    ).score
    flat = x.reshape(len(x), -1), np.asarray(h).reshape(len(x), -1)
    correlation = dependence(*flat, key, batch=64)
    score = decoded.score
    numbers = {
        "accuracy": utility,
        "dCor": correlation.biased.value,
        "dCor corrected": correlation.corrected.value,
        "dCor shuffled": correlation.shuffled.value,
        "decoder MSE": score.value,
        "floor": score.chance,
        "SSIM": score.more["SSIM"],
        "UnSplit MSE": unsplit.value,
        "UnSplit floor": unsplit.chance,
    }
    row = {
        "defence": defence.name,
        "seed": seed,
        "numbers": numbers,
        "controls": {"decoder": score.control, "UnSplit": unsplit.control},
        "seconds": {"training": seconds}
        | {"decoder": score.budget.seconds, "UnSplit": unsplit.budget.seconds},
    }
    return row, decoded
