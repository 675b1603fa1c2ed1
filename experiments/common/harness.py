"""What the experiments with many clients share: records, networks, rates, and measures.

Records are one field and a label; networks are cut after their first layer; the learning rate can
be set without compiling anew; and `correct` says how good the clients' models are. A file of
records may say whose each is, as `site_train` or `rec_train` (a hospital, a patient); that makes
the clients.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.model_selection import train_test_split

import jsplit
from experiments.common.data import (
    BUNDLED,
    Arrays,
    archive,
    load,
    sample,
    scaled,
    tables,
)
from experiments.common.vision import VGG, vgg
from jsplit import population
from jsplit.population import Population
from jsplit.rounds import Federation

# Keys of a file that say whose a record is, and who that is.
GROUPS = {"site": "site", "rec": "patient"}
# Two recordings of one person in MIT-BIH: whoever trains on one must not be tested on the other.
SAME_PERSON = {202: 201}
WIDTH = 32  # of the client's layer in a dense network
FILTERS = (8, 32, 64)  # the client has the first
NETWORKS = ("dense", "small", "convolutional", *(f"vgg{depth}" for depth in VGG))

# Of learning, that every algorithm chooses from.
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
VALID = 0.15  # of the training records, to choose on
ALPHA = 0.3  # of the Dirichlet distribution of labels over clients
LEAST = 10  # records of a client, where labels are skewed


class Records(NamedTuple):
    """A data set whose records are one field.

    Attributes:
        name: for tables, figures and file names.
        train: `record` and `label`, and where it is known `group`: whose the record is.
        valid: the same, set aside of `train` to choose a rate by.
        test: the same.
        classes: how many.
        grouping: what a group is.
    """

    name: str
    train: Arrays
    valid: Arrays
    test: Arrays
    classes: int
    grouping: str = ""


def unlike(data: Records, clients: int, seed: int) -> tuple[str, Population]:
    """Clients who differ: those that a file names, or else with skewed labels.

    Args:
        data: whose training records are theirs.
        clients: how many, where the file names none.
        seed: of who has what, and of the order.

    Returns:
        What they differ by, and the population.
    """
    labels, group = data.train["label"], data.train.get("group")
    if group is not None:
        return f"by {data.grouping}", population.grouped(group, seed)
    skewed = population.dirichlet(labels, clients, ALPHA, seed, LEAST)
    return f"Dirichlet({ALPHA:g})", skewed


def records(name: str, limit: int | None = None, seed: int = 0) -> Records:
    """Load the data set `name`, as `data.load` does, and set `VALID` of its training records aside.

    Args:
        name: one of `BUNDLED`, or the path of an `.npz` file.
        limit: at most so many records for training, and for testing.
        seed: of what is drawn: parts, and the records that are kept.
    """
    grouping = ""
    if name in BUNDLED:
        parts = bundled(name, seed)
    else:
        parts, grouping = from_file(name)
    rng = np.random.default_rng(seed)
    train, test = (sample(part, limit, rng) for part in parts)
    kept, aside = train_test_split(
        np.arange(len(train["label"])),
        test_size=VALID,
        stratify=strata(train["label"]),
        random_state=seed,
    )
    return Records(
        Path(name).stem,
        pick(train, kept),
        pick(train, aside),
        test,
        classes=int(max(part["label"].max() for part in parts)) + 1,
        grouping=grouping,
    )


def strata(label: np.ndarray) -> np.ndarray | None:
    """What the division keeps in proportion: the labels, where there are enough of each class."""
    number = round(VALID * len(label))
    each = np.unique(label, return_counts=True)[1]
    enough = each.min() > 1 and min(number, len(label) - number) >= len(each)
    return label if enough else None


def bundled(name: str, seed: int) -> list[Arrays]:
    """Training and test records of a data set that scikit-learn has, its fields as one."""
    data = load(name, seed=seed)
    # The halves of an image lie side by side; fields of a table are columns.
    axis = 2 if name == "digits" else 1
    task = next(iter(data.tasks))
    parts = []
    for part in (data.train, data.test):
        record = np.concatenate([part[field] for field in data.owners], axis)
        parts.append({"record": record, "label": part[task]})
    return parts


def from_file(name: str) -> tuple[list[Arrays], str]:
    """Training and test records of a file, and what a group is, where it says whose they are."""
    archive(name)  # says what is wrong with the file
    with np.load(name) as stored:
        arrays = {key: stored[key] for key in stored.files}
    parts = []
    for of, record in zip(("train", "test"), prepared(arrays), strict=True):
        parts.append({"label": arrays[f"y_{of}"].astype(np.int32), "record": record})
    key = next((key for key in GROUPS if f"{key}_train" in arrays), None)
    if key is None:
        return parts, ""

    names = arrays.get(f"{key}_names")
    for part, of in zip(parts, ("train", "test"), strict=True):
        own = [SAME_PERSON.get(int(g), int(g)) for g in arrays[f"{key}_{of}"]]
        part["group"] = np.array([str(g if names is None else names[g]) for g in own])
    train, test = (set(part["group"]) for part in parts)
    # A test on patients who are no clients: nobody has trained on any of theirs, so whoever is in
    # both is left out of the test.
    if not test <= train:
        others = ~np.isin(parts[1]["group"], list(train & test))
        parts[1] = pick(parts[1], others)
    return parts, GROUPS[key]


def prepared(arrays: Arrays) -> Sequence[np.ndarray]:
    """Training and test records, scaled by what training records show; images by what a byte is."""
    x, x_test = arrays["x_train"], arrays["x_test"]
    if x.ndim > 2:
        whole = scaled(x, x_test)
        # From -1 to 1, around 0: these networks have no BatchNorm to centre what they read.
        return [2 * part - 1 for part in whole] if x.dtype == np.uint8 else whole
    columns = list(range(x.shape[1]))
    parts = tables(
        x,
        x_test,
        {"record": columns},
        arrays.get("is_categorical", np.zeros(len(columns), bool)),
    )
    return [part["record"] for part in parts]


def pick(arrays: Arrays, which: np.ndarray | Sequence[int]) -> Arrays:
    return {name: x[np.asarray(which)] for name, x in arrays.items()}


def fields(arrays: Arrays) -> dict[str, jax.Array]:
    """What training reads, on the device."""
    return {name: jnp.asarray(arrays[name]) for name in ("record", "label")}


# The networks: no BatchNorm, whose statistics every algorithm would treat in another way.


class Dense(nnx.Module):
    """Dense layers, the first at the client."""

    def __init__(
        self, inputs: int, widths: Sequence[int], classes: int, *, rngs: nnx.Rngs
    ):
        sizes = [inputs, *widths, classes]
        self.layers = nnx.List()
        for a, b in zip(sizes, sizes[1:], strict=False):
            self.layers.append(nnx.Linear(a, b, rngs=rngs))

    def __call__(self, record: jax.Array) -> jax.Array:
        first, *others = self.layers
        h = jsplit.cut(first(record.reshape(record.shape[0], -1)), "smashed")
        for layer in others:
            h = layer(nnx.relu(h))
        return h


class Convolutional(nnx.Module):
    """Convolutions that halve an image or a signal, the first at the client, and dense layers."""

    def __init__(self, shape: Sequence[int], classes: int, *, rngs: nnx.Rngs):
        *space, channels = shape
        sizes = [channels, *FILTERS]
        conv = partial(
            nnx.Conv,
            kernel_size=(3,) * len(space),
            strides=(2,) * len(space),
            rngs=rngs,
        )
        self.layers = nnx.List()
        for a, b in zip(sizes, sizes[1:], strict=False):
            self.layers.append(conv(a, b))
        for _ in FILTERS:
            space = [(n + 1) // 2 for n in space]
        self.dense = nnx.Linear(FILTERS[-1] * int(np.prod(space)), 128, rngs=rngs)
        self.last = nnx.Linear(128, classes, rngs=rngs)

    def __call__(self, record: jax.Array) -> jax.Array:
        first, *others = self.layers
        h = nnx.relu(jsplit.cut(first(record), "smashed"))
        for layer in others:
            h = nnx.relu(layer(h))
        return self.last(nnx.relu(self.dense(h.reshape(h.shape[0], -1))))


def network(name: str, shape: Sequence[int], classes: int) -> jsplit.Segment:
    """The whole network, whose parameters are drawn from the key that it starts from."""
    if name.startswith("vgg"):
        make = partial(vgg, int(name[3:]), classes, shape[0])
    elif name == "convolutional":
        make = partial(Convolutional, shape, classes)
    else:
        make = partial(
            Dense,
            int(np.prod(shape)),
            (WIDTH,) if name == "small" else (WIDTH, 256, 256),
            classes,
        )
    whole = jsplit.segment(make(rngs=nnx.Rngs(0)), inputs="record")

    # An nnx module has its values already, whatever the key; here each seed is to have its own.
    def init(key: jax.Array, *inputs: jax.Array):
        return jsplit.segment(make(rngs=nnx.Rngs(key))).init(key, *inputs)

    return replace(whole, init=init)


def topology(name: str, data: Records) -> jsplit.Topology:
    """The network cut after its first layer, which clients have; the server has rest and labels."""
    shape = data.train["record"].shape[1:]
    cuts = ["conv1_1"] if name.startswith("vgg") else None
    example = jax.ShapeDtypeStruct((2, *shape), "float32")
    segments = jsplit.split(network(name, shape, data.classes), example, cuts=cuts)
    return jsplit.vanilla(
        *segments.values(), loss=optax.softmax_cross_entropy_with_integer_labels
    )


def trainer(parts: jsplit.Topology) -> jsplit.Trainer:
    """Plain SGD at every party; `jsplit.set_hyperparams` sets how fast."""
    # As a hyperparameter the rate is a part of the state, so another one compiles nothing anew.
    return jsplit.fused(parts, optax.inject_hyperparams(optax.sgd)(learning_rate=0.0))


def cost_of(parts: jsplit.Topology, data: Records, batch: int) -> jsplit.Cost:
    """What a step costs: plain SGD has no state to send."""
    shapes = {
        n: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
        for n, x in fields(pick(data.train, [0])).items()
    }
    return jsplit.cost(parts, shapes)


def best(
    accuracy: Callable[[float], float | None],
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> tuple[float, dict[str, float | None]]:
    """The rate of the highest `accuracy`, and the accuracy at each.

    A rate at which training diverges is worse than every other; where all diverge, the lowest is
    taken, and whoever trains with it finds that out.

    Args:
        accuracy: of a short run at a rate; it diverges by `jsplit.NotFinite` or by `None`.
        advance: told of each rate.
    """
    found: dict[float, float | None] = {}
    for rate in RATES:
        try:
            found[rate] = accuracy(rate)
        except jsplit.NotFinite:
            found[rate] = None
        advance(1, f"rate {rate:g}: {shown(found[rate])}")
    ended = {rate: x for rate, x in found.items() if x is not None}
    # Of two that are equal `max` gives the first, which is the lower.
    chosen = max(ended, key=lambda r: ended[r], default=min(found))
    return chosen, {f"{r:g}": x for r, x in found.items()}


def shown(accuracy: float | None) -> str:
    """An accuracy for a table; `None` is of training that diverged."""
    return "diverged" if accuracy is None else f"{accuracy:.3f}"


def positive(text: str) -> int:
    """An argument that must be a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def correct(
    predict: Callable,
    state: Federation,
    part: Mapping[str, np.ndarray],
    clients: int | None = None,
) -> np.ndarray:
    """Whether each record is classified rightly, [models, records].

    By the one model that all share, or, where `clients` says how many have one, by each client's.
    """
    record, label = jnp.asarray(part["record"]), part["label"]
    right = []
    for client in [None] if clients is None else range(clients):
        output = predict(state, {"record": record}, client=client)["output"]
        right.append(np.argmax(output, -1) == label)
    return np.stack(right)
