"""How much do cotangents tell of labels? Li et al. 2022 and Erdogan et al. 2022, with clusters.

Li et al., `Label leakage and protection in two-party split learning
<https://arxiv.org/abs/2102.08504>`_, print the leak AUC of norms and of cosines to one known
positive record for Criteo, dense layers 128-128-128 | 128-128-1, batch 1024: norm at most 0.951,
cosine 1.00 (unprotected), and with isotropic noise of ratio 1 / 2.5 / 5 norm 0.903 / 0.671 / 0.570.
Here the same network learns another table of two classes, and k-means of directions, which knows
no label, stands beside. Noise is added to what was recorded, so all attacks see the same training.
Its deviation is `ratio` times the largest norm of the batch over the square root of how many
numbers a cotangent has.

Erdogan et al., `UnSplit <https://arxiv.org/abs/2108.09033>`_, infer labels of a U-shape from the
cotangents that come to the body: 100 % with one layer behind it, 9.1 % with two (by others, MNIST).
Fu et al. 2022 complete the bottom of a vertical client by a head from 40 labels. Both on digits.

    python experiments/privacy/labels.py
    # a table of one's own; for its layout see data.py
    python experiments/privacy/labels.py --data credit_default.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

import jsplit
from experiments.common import report
from experiments.common.data import load
from experiments.common.harness import positive, records
from jsplit.privacy import (
    Score,
    Traffic,
    best,
    cosine_attack,
    direction_clusters,
    gradient_matching,
    malicious,
    model_completion,
    norm_attack,
)

BATCH = 1024
RATIOS = (0.0, 1.0, 2.5, 5.0)
COLUMNS = (
    "what",
    "attack",
    "measure",
    "value",
    "interval",
    "max",
    "control",
    "chance",
    "seconds",
)
CLASSES = optax.softmax_cross_entropy_with_integer_labels


def one_logit(output: jax.Array, label: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(output[:, 0], label.astype("float32"))


def dense(sizes: Sequence[int], inputs: str, name: str, last: bool) -> jsplit.Segment:
    """Dense layers, a relu after each, and after the `last` one as well or not."""

    def init(key: jax.Array, *_: jax.Array):
        keys = jax.random.split(key, len(sizes) - 1)
        draw = jax.nn.initializers.he_uniform()
        pairs = zip(keys, sizes, sizes[1:], strict=False)
        return [(draw(k, (a, b)), jnp.zeros(b)) for k, a, b in pairs]

    def apply(params, h: jax.Array) -> jax.Array:
        h = h.reshape(len(h), -1)
        for number, (weight, bias) in enumerate(params, start=1):
            h = h @ weight + bias
            if last or number < len(params):
                h = jax.nn.relu(h)
        return h

    return jsplit.segment(apply, init=init, inputs=[inputs], name=name)


class Split(NamedTuple):
    """A trained split, and what came back over its cut.

    Attributes:
        seen: traffic of the steps, of whoever gets the cotangent of `smashed`.
        label: the truth of it.
        ids: whose record each is.
        predict: outputs of records.
    """

    seen: Traffic
    label: np.ndarray
    ids: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]


def trained(
    bottom: jsplit.Segment,
    top: jsplit.Segment,
    loss: Callable,
    data: dict,
    *,
    batch: int,
    steps: int,
    rate: float = 1e-3,
    last: int | None = None,
) -> Split:
    """Train a split, and keep what crosses in the `last` steps (by default in all)."""
    topology = jsplit.vanilla(bottom, top, loss=loss)
    trainer = jsplit.fused(topology, optax.adam(rate))
    state = trainer.init(0, {n: x[:batch] for n, x in data.items()})

    @jax.jit
    def crossing(state: jsplit.TrainState, fields: dict):
        params = {n: p for own in state.parties.values() for n, p in own.params.items()}
        h, _ = bottom.apply(params["smashed"], {}, None, fields["record"])

        def total(h: jax.Array) -> jax.Array:
            output, _ = top.apply(params["output"], {}, None, h)
            return loss(output, fields["label"]).mean()

        return h, jax.grad(total)(h)

    rng, order, kept = np.random.default_rng(0), np.zeros(0, int), []
    for number in range(steps):
        if len(order) < batch:
            order = rng.permutation(len(data["label"]))
        here, order = order[:batch], order[batch:]
        fields = {n: x[here] for n, x in data.items()}
        if last is None or number >= steps - last:
            h, cotangent = crossing(state, fields)
            kept.append((np.full(batch, number), here, fields["label"], h, cotangent))
        state, _ = trainer.step(state, fields)
    step, ids, label, h, cotangent = (
        np.concatenate(x) for x in zip(*kept, strict=True)
    )
    seen = Traffic("other", step, returned={"smashed": cotangent}, sent={"smashed": h})

    def predict(record: np.ndarray) -> np.ndarray:
        return np.asarray(trainer.predict(state, {"record": record})["output"])

    return Split(seen, label, ids, predict)


def with_noise(seen: Traffic, ratio: float) -> Traffic:
    """Isotropic noise on each step's cotangents, relative to their largest norm."""
    if not ratio:
        return seen
    x, rng = np.array(seen.returned["smashed"]), np.random.default_rng(1)
    for number in np.unique(seen.step):
        inside = seen.step == number
        largest = np.linalg.norm(x[inside], axis=1).max()
        deviation = ratio * largest / np.sqrt(x.shape[1])
        x[inside] += deviation * rng.normal(size=x[inside].shape)
    return seen._replace(returned={"smashed": x})


def leaks(path: str, steps: int) -> list[tuple[str, Score]]:
    """The attacks of Li et al. and clusters, with and without noise."""
    data = records(path)
    width, train = data.train["record"].shape[1], data.train
    bottom = dense([width, 128, 128, 128], "record", "smashed", last=True)
    top = dense([128, 128, 128, 1], "smashed", "output", last=False)
    split = trained(bottom, top, one_logit, train, batch=BATCH, steps=steps)
    auc = roc_auc_score(data.test["label"], split.predict(data.test["record"])[:, 0])
    print(f"{data.name}: test AUC {auc:.3f}, {steps} steps of {BATCH}", flush=True)
    found = []
    for ratio in RATIOS:
        seen = with_noise(split.seen, ratio)
        scores = [
            attack(seen, split.label, ids=split.ids)
            for attack in (norm_attack, cosine_attack, direction_clusters)
        ]
        found += [(f"noise {ratio:g}", score) for score in scores]
        found.append((f"noise {ratio:g}, best", best(scores)))
    return found


def matched(steps: int) -> list[tuple[str, Score]]:
    """Labels of ten classes from what comes to the body of a U-shape, one tail layer or two."""
    data, found = digits(), []
    for layers in (1, 2):
        bottom = dense([64, 64, 64], "record", "smashed", last=True)
        tail = dense([*[64] * layers, 10], "smashed", "output", last=False)
        split = trained(
            *(bottom, tail, CLASSES, data), batch=512, steps=steps, rate=3e-3, last=2
        )
        known = [int(np.flatnonzero(split.label == c)[0]) for c in range(10)]
        for names in (None, known):
            what = f"tail of {layers}, {'one label a class' if names else 'no label'}"
            options = {"classes": 10, "known": names, "ids": split.ids}
            scores = [
                direction_clusters(split.seen, split.label, **options),
                gradient_matching(split.seen, split.label, tail, CLASSES, **options),
            ]
            found += [(what, score) for score in scores]
    return found


def completed(steps: int, labels: int = 40) -> list[tuple[str, Score]]:
    """The left half's bottom of a vertical split, completed from few labels."""
    data, found = load("digits"), []
    fields = {
        n: data.train[n].reshape(len(data.train[n]), -1) for n in ("left", "right")
    }
    label = data.train["digit"]
    batch = {**fields, "label": label}

    def bottom(side: str) -> jsplit.Segment:
        return dense([32, 64, 32], side, f"h_{side}", last=True)

    topology = jsplit.vertical(
        {"client_left": bottom("left"), "client_right": bottom("right")},
        dense([64, 64, 10], "both", "output", last=False),
        loss=CLASSES,
        merge=lambda *h: jnp.concatenate(h, axis=-1),
    )
    head = dense([32, 32, 10], "h", "guess", last=False)
    each = [np.flatnonzero(label == c)[: labels // 10] for c in range(10)]
    plain = optax.sgd(0.1, momentum=0.9)
    for name, mine in (("passive", plain), ("active", malicious(plain))):
        parties = {p: plain for p in ("client_left", "client_right", "server")}
        trainer = jsplit.fused(topology, {**parties, "client_left": mine})
        first = state = trainer.init(0, batch)
        rng = np.random.default_rng(0)
        for _ in range(steps):
            here = rng.choice(len(label), 128, replace=False)
            state, _ = trainer.step(state, {n: x[here] for n, x in batch.items()})
        guess = trainer.predict(state, fields)["output"].argmax(-1)
        print(f"digits, {name}: accuracy {np.mean(guess == label):.3f}", flush=True)

        def seen(state: jsplit.TrainState) -> Traffic:
            own = state.parties["client_left"].params
            h, _ = bottom("left").apply(
                next(iter(own.values())), {}, None, fields["left"]
            )
            return Traffic("client_left", np.zeros(len(label), int), sent={"h": h})

        for method in ("supervised", "semi-supervised"):
            score = model_completion(
                *(seen(state), label, head),
                known=np.concatenate(each),
                classes=10,
                method=method,
                untrained=seen(first),
                active=name == "active",
            )
            before = score.more["untrained bottom"]
            found.append((f"{labels} labels, {name}, {method} ({before:.3f})", score))
    return found


def digits() -> dict[str, np.ndarray]:
    part = records("digits").train
    return {"record": part["record"].reshape(-1, 64), "label": part["label"]}


def cells(what: str, score: Score, beside: str = "max", digits: int = 3) -> list[str]:
    """A row of a table: a score, with one more of its numbers beside its interval."""
    numbers = [score.value, *score.interval, score.more.get(beside), score.control]
    value, low, high, more, control, chance = (
        "" if x is None else f"{x:.{digits}f}" for x in (*numbers, score.chance)
    )
    return [
        *(what, score.attack, score.measure, value, f"{low}-{high}", more),
        *(control, chance, f"{score.budget.seconds:.1f}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="breast_cancer", help="of two classes")
    parser.add_argument("--steps", type=positive, default=69, help="of training")
    parser.add_argument("--out", type=Path, default=Path("results/labels.json"))
    parser.add_argument("--only", choices=["leaks", "matched", "completed"])
    options = parser.parse_args()
    parts = {
        "leaks": lambda: leaks(options.data, options.steps),
        "matched": lambda: matched(300),
        "completed": lambda: completed(300),
    }
    rows = {}
    for name, run in parts.items():
        if options.only in (None, name):
            rows[name] = run()
            table = [cells(*row) for row in rows[name]]
            report.table(name, COLUMNS, table)
    kept = [
        {"part": part, "what": what, "attack": s.attack, "value": s.value}
        | {"interval": s.interval, "control": s.control, "chance": s.chance}
        | {"measure": s.measure, "seconds": s.budget.seconds, "more": dict(s.more)}
        for part, found in rows.items()
        for what, s in found
    ]
    report.write_rows(options.out, kept)


if __name__ == "__main__":
    main()
