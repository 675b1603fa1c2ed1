"""The table that the tests sweep: four models, in nnx and in linen, in the paper's six
configurations.

A whole model is a data flow through stages: `bottom` reads a field, `middle` and `top`
follow. `flow` says for each configuration which stage reads which, and where the cuts
are; it is the same for nnx and linen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from tests import adapted, tied

CONFIGURATIONS = (
    "vanilla",
    "u_shaped",
    "vertical",
    "extended_vanilla",
    "multitask",
    "multihop",
)
TIED = (
    "tied U-shaped language model"  # a row of its own: one model, in both kinds of Flax
)
ADAPTED = "LoRA with frozen base"  # likewise, and as a plain function
MODELS = ("mlp", "cnn", "residual", "transformer")
FLAX = ("nnx", "linen")
BATCH, CLASSES = 8, 3
FIELD = {"mlp": (6,), "cnn": (6, 6, 1), "residual": (4, 4, 2), "transformer": (4,)}
WIDTH = {"mlp": 8, "cnn": 4, "residual": 4, "transformer": 8}

STAGES = {  # by configuration: the party of each stage
    "vanilla": {"bottom": "client", "middle": "server", "top": "server"},
    "u_shaped": {"bottom": "client", "middle": "server", "top": "client"},
    "vertical": {
        "left_bottom": "lab",
        "right_bottom": "clinic",
        "middle": "server",
        "top": "server",
    },
    "extended_vanilla": {
        "left_bottom": "lab",
        "right_bottom": "clinic",
        "middle": "intermediary",
        "top": "server",
    },
    "multitask": {
        "left_bottom": "lab",
        "right_bottom": "clinic",
        "top0": "server0",
        "top1": "server1",
    },
    "multihop": {"bottom": "one", "middle": "two", "middle2": "three", "top": "four"},
    TIED: tied.PARTIES,
    ADAPTED: adapted.PARTIES,
}
WEIGHTS = {"server0": 1.0, "server1": 0.5}


def some(points: Iterable, often: Callable[[int], object]) -> list:
    """The points of a sweep: those whose number `often` picks always run, the others in
    the slow part.
    """
    points = [p if isinstance(p, tuple) else (p,) for p in points]
    return [
        pytest.param(*p, marks=() if often(i) else pytest.mark.slow)
        for i, p in enumerate(points)
    ]


def merge(a, b):
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=-1), a, b)


def flow(configuration: str, stage: Callable, fields: tuple) -> Any:
    """One whole model: the only place that says what is computed from what."""
    cut = jsplit.cut
    both = None
    if len(fields) == 2:
        left = cut(stage("left_bottom", fields[0]), "left")
        right = cut(stage("right_bottom", fields[1]), "right")
        both = merge(left, right)
    match configuration:
        case "vanilla":
            return stage(
                "top", stage("middle", cut(stage("bottom", fields[0]), "smashed"))
            )
        case "u_shaped":
            return stage(
                "top",
                cut(stage("middle", cut(stage("bottom", fields[0]), "up")), "down"),
            )
        case "vertical":
            return stage("top", stage("middle", both))
        case "extended_vanilla":
            return stage("top", cut(stage("middle", both), "between"))
        case "multitask":
            return {"server0": stage("top0", both), "server1": stage("top1", both)}
        case "multihop":
            h = cut(stage("bottom", fields[0]), "hop1")
            h = cut(stage("middle2", cut(stage("middle", h), "hop2")), "hop3")
            return stage("top", h)


# The stages, in nnx.


class Attention(nnx.Module):
    def __init__(self, width, rngs):
        self.norm1, self.norm2 = (
            nnx.LayerNorm(width, rngs=rngs),
            nnx.LayerNorm(width, rngs=rngs),
        )
        self.attention = nnx.MultiHeadAttention(
            2, width, qkv_features=8, decode=False, rngs=rngs
        )
        self.dense = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, h):
        h = h + self.dropout(self.attention(self.norm1(h)))
        return h + nnx.gelu(self.dense(self.norm2(h)))


class Stage(nnx.Module):
    def __init__(self, kind, role, width, rngs):
        self.kind, self.role, out = kind, role, WIDTH[kind]
        if kind == "transformer":
            if role == "bottom":
                self.embed = nnx.Embed(11, out, rngs=rngs)
            elif role == "middle":
                self.narrow, self.block = (
                    nnx.Linear(width, out, rngs=rngs),
                    Attention(out, rngs),
                )
            else:
                self.norm = nnx.LayerNorm(width, rngs=rngs)
        elif role != "top":
            if kind == "mlp":
                self.layer = nnx.Linear(width, out, rngs=rngs)
            else:
                self.layer = nnx.Conv(
                    width, out, (3, 3), use_bias=False, rngs=rngs
                )  # BatchNorm takes a bias out again
                self.norm = nnx.BatchNorm(out, rngs=rngs)
            if kind == "cnn":
                self.dropout = nnx.Dropout(0.2, rngs=rngs)
            if kind == "residual":
                self.skip = nnx.Conv(width, out, (1, 1), rngs=rngs)
        if role == "top":
            self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, h):
        match self.kind, self.role:
            case "mlp", "top":
                return self.head(h)
            case "mlp", _:
                return nnx.tanh(self.layer(h))
            case "cnn", "top":
                return self.head(h.mean((1, 2)))
            case "cnn", _:
                return self.dropout(nnx.relu(self.norm(self.layer(h))))
            case "residual", "bottom":
                return {"h": nnx.relu(self.norm(self.layer(h))), "skip": self.skip(h)}
            case "residual", "middle":
                return {
                    "h": nnx.relu(self.norm(self.layer(h["h"]))),
                    "skip": self.skip(h["skip"]),
                }
            case "residual", "top":
                return self.head((h["h"] + h["skip"]).mean((1, 2)))
            case "transformer", "bottom":
                return self.embed(h)
            case "transformer", "middle":
                return self.block(self.narrow(h))
            case "transformer", "top":
                return self.head(self.norm(h).mean(1))


def role_of(name: str) -> str:
    return next(role for role in ("bottom", "middle", "top") if role in name)


def width_of(kind: str, configuration: str, name: str) -> int:
    first_after_merge = {
        "vertical": "middle",
        "extended_vanilla": "middle",
        "multitask": "top",
    }.get(configuration, "none")
    if role_of(name) == "bottom":
        return FIELD[kind][-1]
    return WIDTH[kind] * (2 if name.startswith(first_after_merge) else 1)


class NnxWhole(nnx.Module):
    def __init__(self, kind, configuration, rngs):
        self.configuration = configuration
        for name in STAGES[configuration]:
            setattr(
                self,
                name,
                Stage(kind, role_of(name), width_of(kind, configuration, name), rngs),
            )

    def flow(self, *fields):
        return flow(self.configuration, lambda name, h: getattr(self, name)(h), fields)


class NnxOne(NnxWhole):
    def __call__(self, image):
        return self.flow(image)


class NnxTwo(NnxWhole):
    def __call__(self, left_field, right_field):
        return self.flow(left_field, right_field)


# The same stages in linen.


class LinenStage(linen.Module):
    kind: str
    role: str

    @linen.compact
    def __call__(self, h, train):
        out = WIDTH[self.kind]

        def norm(x):
            return linen.relu(linen.BatchNorm(use_running_average=not train)(x))

        match self.kind, self.role:
            case "mlp", "top":
                return linen.Dense(CLASSES)(h)
            case "mlp", _:
                return linen.tanh(linen.Dense(out)(h))
            case "cnn", "top":
                return linen.Dense(CLASSES)(h.mean((1, 2)))
            case "cnn", _:
                return linen.Dropout(0.2, deterministic=not train)(
                    norm(linen.Conv(out, (3, 3), use_bias=False)(h))
                )
            case "residual", "bottom":
                return {
                    "h": norm(linen.Conv(out, (3, 3), use_bias=False)(h)),
                    "skip": linen.Conv(out, (1, 1))(h),
                }
            case "residual", "middle":
                return {
                    "h": norm(linen.Conv(out, (3, 3), use_bias=False)(h["h"])),
                    "skip": linen.Conv(out, (1, 1))(h["skip"]),
                }
            case "residual", "top":
                return linen.Dense(CLASSES)((h["h"] + h["skip"]).mean((1, 2)))
            case "transformer", "bottom":
                return linen.Embed(11, out)(h)
            case "transformer", "middle":
                h = linen.Dense(out)(h)
                attended = linen.MultiHeadDotProductAttention(2, qkv_features=8)(
                    linen.LayerNorm()(h)
                )
                h = h + linen.Dropout(0.1, deterministic=not train)(attended)
                return h + linen.gelu(linen.Dense(out)(linen.LayerNorm()(h)))
            case "transformer", "top":
                return linen.Dense(CLASSES)(linen.LayerNorm()(h).mean(1))


class LinenOne(linen.Module):
    kind: str
    configuration: str

    @linen.compact
    def __call__(self, image, train):
        return flow(
            self.configuration,
            lambda name, h: LinenStage(self.kind, role_of(name), name=name)(h, train),
            (image,),
        )


class LinenTwo(linen.Module):
    kind: str
    configuration: str

    @linen.compact
    def __call__(self, left_field, right_field, train):
        stages = {
            name: LinenStage(self.kind, role_of(name), name=name)
            for name in STAGES[self.configuration]
        }
        return flow(
            self.configuration,
            lambda name, h: stages[name](h, train),
            (left_field, right_field),
        )


# A problem: data, a whole model with its first values, and the topology that splits it.


class Problem(NamedTuple):
    """Everything one point of the sweep needs; `whole` is an nnx module, or a linen
    module with `variables`.
    """

    configuration: str
    whole: Any
    variables: Any
    fields: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    topology: jsplit.Topology
    trains: Callable[[Any], bool] = lambda path: True

    @property
    def batch(self):
        return {**self.fields, **self.labels}


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def widen(tree):
    """float64 in the place of float32, where double precision is on."""
    wide = jnp.result_type(float)
    return jax.tree.map(lambda x: x.astype(wide) if x.dtype == jnp.float32 else x, tree)


def make_problem(
    configuration: str, kind: str, flax: str, batch: int = BATCH
) -> Problem:
    """A point of the sweep; tests that ask for the same get the same, and none changes it."""
    wide = jnp.result_type(float) == jnp.float64
    return _make_problem(configuration, kind, flax, batch, wide)


# To build a module and to trace and slice it costs as much as to train it a few steps, and
# some points are asked for by dozens of tests. Whether numbers are wide is a part of the key:
# the fields and first values are drawn in the precision of the moment.
@cache
def _make_problem(
    configuration: str, kind: str, flax: str, batch: int, wide: bool
) -> Problem:
    if configuration == TIED:
        given = tied.data(batch)
        label = {"label": given.pop("label")}
        made = tied.whole_and_topology(flax, given["tokens"], widen)
        return Problem(TIED, *made[:2], given, label, made[2])
    rng = np.random.default_rng(0)
    if configuration == ADAPTED:
        image = rng.normal(size=(batch, adapted.WIDTH)).astype(jnp.result_type(float))
        label = {"label": rng.integers(0, CLASSES, batch).astype(np.int32)}
        whole, variables, parts = adapted.whole_and_parts(flax, image, widen)
        topology = jsplit.u_shaped(*parts.values(), loss=cross_entropy)
        given = {"image": image}, label, topology, adapted.is_adapter
        return Problem(ADAPTED, whole, variables, *given)
    two = "left_bottom" in STAGES[configuration]
    names = ("left_field", "right_field") if two else ("image",)
    if kind == "transformer":
        fields = {
            n: rng.integers(0, 11, (batch, *FIELD[kind])).astype(np.int32)
            for n in names
        }
    else:
        fields = {
            n: rng.normal(size=(batch, *FIELD[kind])).astype(jnp.result_type(float))
            for n in names
        }
    tasks = list(WEIGHTS) if configuration == "multitask" else []
    labels = {
        n: rng.integers(0, CLASSES, batch).astype(np.int32)
        for n in [f"label_{t}" for t in tasks] or ["label"]
    }
    for array in (*fields.values(), *labels.values()):
        array.setflags(write=False)
    variables = None
    if flax == "nnx":
        whole = (NnxTwo if two else NnxOne)(kind, configuration, nnx.Rngs(0))
        nnx.update(whole, widen(nnx.state(whole, nnx.Not(nnx.RngState))))
    else:
        whole = (LinenTwo if two else LinenOne)(kind, configuration)
        variables = widen(whole.init(jax.random.key(0), *fields.values(), train=True))
    segments = jsplit.split(
        whole, *fields.values(), variables=variables, outputs=tasks or None
    )
    return Problem(
        configuration,
        whole,
        variables,
        fields,
        labels,
        make_topology(configuration, segments),
    )


def make_topology(
    configuration: str, segments: dict[str, jsplit.Segment]
) -> jsplit.Topology:
    s, party = segments, STAGES[configuration]
    sides = {"lab": "left", "clinic": "right"}
    bottoms = {party: s[side] for party, side in sides.items() if side in s}
    match configuration:
        case "vanilla":
            return jsplit.vanilla(s["smashed"], s["output"], loss=cross_entropy)
        case "u_shaped":
            return jsplit.u_shaped(s["up"], s["down"], s["output"], loss=cross_entropy)
        case "vertical":
            return jsplit.vertical(bottoms, s["output"], loss=cross_entropy)
        case "extended_vanilla":
            return jsplit.extended_vanilla(
                bottoms, s["between"], s["output"], loss=cross_entropy
            )
        case "multitask":
            tops = {server: s[server] for server in WEIGHTS}
            return jsplit.multitask(
                bottoms,
                tops,
                losses=dict.fromkeys(tops, cross_entropy),
                weights=WEIGHTS,
            )
        case "multihop":
            return jsplit.multihop(
                dict(zip(party.values(), s.values(), strict=True)), loss=cross_entropy
            )
    raise ValueError(configuration)
