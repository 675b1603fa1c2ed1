"""One Flax model, divided in six ways: the configurations of Vepakomma et al. 2018.

Each field has a bottom, each task a top; places where it may be cut are marked in the code. Five
of the configurations are this network with one top, cut at different marks; `multitask` is the
network with two. BatchNorm and dropout lie on both sides of the first cut, since they are where
splitting goes wrong most easily.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jsplit

CONFIGURATIONS = (
    "vanilla",
    "u_shaped",
    "vertical",
    "extended_vanilla",
    "multitask",
    "multihop",
)
WIDTH = 32
FILTERS = 16
DROPOUT = 0.1
UNIFORM = nnx.initializers.he_uniform()
SMALLEST = 4  # convolutions halve an image until no side is longer

Shapes = Mapping[str, tuple[int, ...]]


class Dense(nnx.Module):
    """A dense layer with BatchNorm and dropout."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(
            inputs, outputs, use_bias=False, kernel_init=UNIFORM, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(DROPOUT, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.linear(h))))


class Convolution(nnx.Module):
    """A convolution over any number of axes, that halves each, with BatchNorm."""

    def __init__(self, axes: int, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (3,) * axes,
            strides=(2,) * axes,
            use_bias=False,
            kernel_init=UNIFORM,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(h)))


class Bottom(nnx.Module):
    """What the owner of a field runs on it: convolutions where it has space, then a dense layer."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        *space, channels = shape
        self.layers = nnx.List()
        while space and max(space) > SMALLEST:
            self.layers.append(Convolution(len(space), channels, FILTERS, rngs=rngs))
            space, channels = [(n + 1) // 2 for n in space], FILTERS
        for n in space:
            channels *= n
        self.dense = Dense(channels, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return self.dense(x.reshape(x.shape[0], -1))


class Top(nnx.Module):
    """From the merged bottoms to the logits of one task, with two more places to cut."""

    def __init__(self, inputs: int, classes: int, *, rngs: nnx.Rngs):
        self.first = Dense(inputs, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, kernel_init=UNIFORM, rngs=rngs)
        self.last = nnx.Linear(WIDTH, classes, kernel_init=UNIFORM, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        h = jsplit.cut(self.first(h), "middle")
        h = jsplit.cut(nnx.relu(self.second(h)), "deep")
        return self.last(h)


class Network(nnx.Module):
    """The whole model: `network(*fields) -> {"<task>_logits": [batch, classes]}`.

    Args:
        fields: shape of one record of each field.
        tasks: number of classes of each task.
    """

    def __init__(self, fields: Shapes, tasks: Mapping[str, int], *, rngs: nnx.Rngs):
        self.fields = tuple(fields)
        self.bottoms = nnx.Dict(
            {name: Bottom(shape, rngs=rngs) for name, shape in fields.items()}
        )
        self.tops = nnx.Dict(
            {
                task: Top(WIDTH * len(fields), classes, rngs=rngs)
                for task, classes in tasks.items()
            }
        )

    def __call__(self, *fields: jax.Array) -> dict[str, jax.Array]:
        codes = [
            jsplit.cut(self.bottoms[name](x), f"{name}_code")
            for name, x in zip(self.fields, fields, strict=True)
        ]
        h = jsplit.cut(jnp.concatenate(codes, axis=-1), "code")
        return {f"{task}_logits": top(h) for task, top in self.tops.items()}


cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Family(NamedTuple):
    """What the models for a data set are made from; `jsplit` and plain Flax alike."""

    fields: Shapes
    owners: Mapping[str, str]
    client: str
    tasks: Mapping[str, int]
    seed: int
    dtype: str


def tasks_of(family: Family, configuration: str) -> dict[str, int]:
    """All tasks for `multitask`, the first for every other configuration."""
    return dict(
        list(family.tasks.items())[: None if configuration == "multitask" else 1]
    )


def network(family: Family, tasks: Mapping[str, int]) -> Network:
    """The whole model, with its first parameters drawn from the family's seed."""
    model = Network(
        family.fields, tasks, rngs=nnx.Rngs(params=family.seed, dropout=family.seed)
    )
    floating = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda x: x.astype(family.dtype), floating))
    return model


def topology(family: Family, configuration: str, model: Network) -> jsplit.Topology:
    """The whole model, which has the tasks of `configuration`, divided over its parties."""
    tasks = tasks_of(family, configuration)
    task = next(iter(tasks))
    codes = [f"{name}_code" for name in family.fields]
    cuts = {
        "vanilla": ["code"],
        "u_shaped": ["code", "deep"],
        "vertical": codes,
        "extended_vanilla": [*codes, "middle"],
        "multitask": codes,
        "multihop": ["code", "middle", "deep"],
    }[configuration]
    example = [
        jax.ShapeDtypeStruct((2, *shape), family.dtype)
        for shape in family.fields.values()
    ]
    outputs = [f"{t}_logits" for t in tasks]
    segments = jsplit.split(
        model, *example, cuts=cuts, outputs=outputs, inputs=list(family.fields)
    )

    bottoms = {
        party: segments[f"{name}_code"]
        for name, party in family.owners.items()
        if f"{name}_code" in segments
    }
    last = segments[outputs[0]]
    common = {"loss": cross_entropy, "label": task}
    match configuration:
        case "vanilla":
            return jsplit.vanilla(
                segments["code"],
                last,
                client=family.client,
                server="hospital",
                **common,
            )
        case "u_shaped":
            return jsplit.u_shaped(
                segments["code"], segments["deep"], last, client="hospital", **common
            )
        case "vertical":
            return jsplit.vertical(bottoms, last, server="hospital", **common)
        case "extended_vanilla":
            return jsplit.extended_vanilla(
                bottoms, segments["middle"], last, server="hospital", **common
            )
        case "multitask":
            servers = dict(zip(("hospital", "registry"), tasks, strict=True))
            return jsplit.multitask(
                bottoms,
                {server: segments[f"{t}_logits"] for server, t in servers.items()},
                losses=dict.fromkeys(servers, cross_entropy),
                labels=servers,
            )
        case _:
            chain = {
                family.client: segments["code"],
                "relay_1": segments["middle"],
                "relay_2": segments["deep"],
                "hospital": last,
            }
            return jsplit.multihop(chain, **common)
