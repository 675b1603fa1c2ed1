"""What do defences of labels leave to an attacker, at what cost? The rows of privacy.py on labels.

The network is that of Li et al., `Label leakage and protection in two-party split learning
<https://arxiv.org/abs/2102.08504>`_: dense layers 128-128-128 | 128-128-1, batch 1024. It learns
another table of two classes, or of more than two whether a record is of the last one, through the
links of `jsplit.privacy`. All attacks see what the client decodes. Strengths of one defence are one
program, and so are the trainings of all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple

import jax
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

import jsplit
from experiments.common.harness import Records
from experiments.privacy.labels import dense, one_logit
from jsplit.privacy import (
    Score,
    Traffic,
    best,
    cosine_attack,
    direction_clusters,
    isotropic,
    label_response,
    marvell,
    max_norm,
    model_completion,
    norm_attack,
    watch,
)

BATCH, MANY = 1024, 8192  # a batch of 128 where there are fewer records than many
KNOWN = 20  # records of each class whose label completes a model
COMPLETED = 4000  # records at most whose label is completed
STRENGTHS = {
    "marvell": (0.25, 1.0, 4.0),
    "max_norm": (1.0,),
    "isotropic": (1.0, 2.5, 5.0),
}
MAKERS = {"marvell": marvell, "max_norm": max_norm, "isotropic": isotropic}
EPSILONS = (3.0, 1.0)
HEAD = dense([128, 32, 2], "h", "guess", last=False)
ATTACKS = {
    "norm": norm_attack,
    "cosine": cosine_attack,
    "clusters": direction_clusters,
}


class Defence(NamedTuple):
    """One row of a table.

    Attributes:
        name: with its strength.
        trainer: shared by strengths and seeds.
        strength: of its link, if that can be set.
        epsilon: of the randomized response of labels, if that is the defence.
    """

    name: str
    trainer: jsplit.RecordingTrainer
    strength: float | None = None
    epsilon: float | None = None


def defences(width: int) -> Iterator[Defence]:
    """All of them, for records of so many numbers."""
    bottom = dense([width, 128, 128, 128], "record", "smashed", last=True)
    top = dense([128, 128, 128, 1], "smashed", "output", last=False)
    whole = jsplit.vanilla(bottom, top, loss=one_logit)

    def trainer(link: jsplit.Link | None = None) -> jsplit.RecordingTrainer:
        links = {"smashed": (None, link)} if link else None
        # Recording already: `watch` would compile a plain one anew in every call.
        return jsplit.record(jsplit.fused(whole, optax.adam(1e-3), links=links))

    plain = trainer()
    yield Defence("none", plain)
    for name, strengths in STRENGTHS.items():
        own = trainer(MAKERS[name](jsplit.Strength("defence", 1.0)))
        # Max-norm has no strength to choose: 1 is the published one.
        for x in strengths:
            yield Defence(name if len(strengths) == 1 else f"{name} {x:g}", own, x)
    for epsilon in EPSILONS:
        yield Defence(f"label_response {epsilon:g}", plain, epsilon=epsilon)
    yield Defence("quantize 2", trainer(jsplit.compress.quantize(2, axis=None)))


def labels(
    load: Callable[[int], Records], seeds: int, steps: int, said: Callable[[dict], None]
) -> list[dict]:
    """Train with each defence and each seed, and attack what came back to the client.

    Args:
        load: records, by seed.
        seeds: how many.
        steps: of training.
        said: what is done with a row as soon as it is there.

    Returns:
        A row for each defence and seed, with "numbers", "seconds" and "controls" by name.
    """
    every = [two_classes(load(seed)) for seed in range(seeds)]
    rows = []
    for defence in defences(every[0].train["record"].shape[1]):
        for seed, data in enumerate(every):
            rows.append(attacked(defence, data, seed, steps))
            said(rows[-1])
    return rows


def two_classes(data: Records) -> Records:
    """Records as rows, and labels 0 and 1."""

    def plain(part: dict) -> dict:
        record, label = part["record"], part["label"]
        label = label if data.classes == 2 else label == data.classes - 1
        return {
            "record": record.reshape(len(record), -1).astype("float32"),
            "label": label.astype("int32"),
        }

    return data._replace(train=plain(data.train), test=plain(data.test), classes=2)


def attacked(defence: Defence, data: Records, seed: int, steps: int) -> dict:
    """One training, and all attacks on it."""
    start, (trainer, train) = perf_counter(), (defence.trainer, data.train)
    truth, count = train["label"], len(train["label"])
    used = train
    if defence.epsilon is not None:
        key = bytes([seed]) * 32
        response = {"classes": 2, "epsilon": defence.epsilon, "key": key}
        used = {**train, "label": label_response(truth, range(count), **response)}
    orders = list(drawn(count, BATCH if count >= MANY else 128, steps, seed))
    ids = np.concatenate(orders)
    first = trainer.init(seed, {n: x[orders[0]] for n, x in used.items()})
    state = first
    if defence.strength is not None:
        state = jsplit.set_hyperparams(state, {"defence": defence.strength})
    batches = ({n: x[here] for n, x in used.items()} for here in orders)
    state, seen = watch(trainer, state, batches, "client")
    output = trainer.predict(state, {"record": data.test["record"]})["output"]
    utility = float(roc_auc_score(data.test["label"], output[:, 0]))
    seconds = {"training": perf_counter() - start}
    scores = {n: run(seen, truth[ids], ids=ids) for n, run in ATTACKS.items()}
    scores["completion"] = completed(trainer, state, first, data, seed)
    most = best(list(scores.values()))
    worst = scores["norm"].more.get("max", float("nan"))
    values = {n: s.value for n, s in scores.items()}
    return {
        "part": "labels",
        "cut": "dense 128",
        "defence": defence.name,
        "seed": seed,
        "numbers": {"test AUC": utility, "norm max": worst, **values}
        | {"best": most.value},
        "controls": {n: s.control for n, s in scores.items()},
        "seconds": seconds | {n: s.budget.seconds for n, s in scores.items()},
    }


def drawn(count: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """The records of each step, an epoch after the other."""
    rng, order = np.random.default_rng(seed), np.zeros(0, int)
    for _ in range(steps):
        if len(order) < batch:
            order = rng.permutation(count)
        here, order = order[:batch], order[batch:]
        yield here


def completed(
    trainer: jsplit.RecordingTrainer,
    state: jsplit.TrainState,
    first: jsplit.TrainState,
    data: Records,
    seed: int,
) -> Score:
    """What the client's own trained bottom tells with a few labels, beside an untrained one."""
    x, y = (data.train[n][:COMPLETED] for n in ("record", "label"))
    known = np.concatenate([np.flatnonzero(y == c)[:KNOWN] for c in (0, 1)])

    def sent(state: jsplit.TrainState) -> Traffic:
        h = trainer.predict(state, {"record": x}, at="smashed")["smashed"]
        return Traffic("client", np.zeros(len(x), int), sent={"h": h})

    return model_completion(
        *(sent(state), y, HEAD),
        known=known,
        classes=2,
        method="supervised",
        untrained=sent(first),
        steps=200,
        key=jax.random.key(seed),
    )
