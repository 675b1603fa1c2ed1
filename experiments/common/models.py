"""One Flax model, divided in six ways: the configurations of Vepakomma et al. 2018.

Each field has a bottom, each task a top; places where it may be cut are marked in the code. Five
of the configurations are this network with one top, cut at different marks; `multitask` is the
network with two. BatchNorm and dropout lie on both sides of the first cut, since they are where
splitting goes wrong most easily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        # BatchNorm has a bias of its own, and takes away any before it.
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
        # As many as it takes, so that one network serves images, volumes and signals of any size;
        # a table has no space, and no convolution.
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
        self.bottoms = nnx.Dict()
        for name, shape in fields.items():
            self.bottoms[name] = Bottom(shape, rngs=rngs)
        self.tops = nnx.Dict()
        for task, classes in tasks.items():
            self.tops[task] = Top(WIDTH * len(fields), classes, rngs=rngs)

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
    # Flax draws in float32 whatever is asked for; in double precision all must be of one dtype.
    floating = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda x: x.astype(family.dtype), floating))
    return model


def cuts_of(configuration: str, fields: Sequence[str]) -> list[str]:
    """Where the network is cut: by field, or after the fields are merged, and deeper."""
    codes = [f"{name}_code" for name in fields]
    return {
        "vanilla": ["code"],
        "u_shaped": ["code", "deep"],
        "vertical": codes,
        "extended_vanilla": [*codes, "middle"],
        "multitask": codes,
        "multihop": ["code", "middle", "deep"],
    }[configuration]


def topology(family: Family, configuration: str, model: Network) -> jsplit.Topology:
    """The whole model, which has the tasks of `configuration`, divided over its parties."""
    tasks = tasks_of(family, configuration)
    outputs = [f"{task}_logits" for task in tasks]
    fields = list(family.fields)
    shapes = [(2, *shape) for shape in family.fields.values()]
    # Two records: with one, an axis of the batch could not be told from one that is not there.
    example = [jax.ShapeDtypeStruct(shape, family.dtype) for shape in shapes]
    cuts = cuts_of(configuration, fields)
    segments = jsplit.split(model, *example, cuts=cuts, outputs=outputs, inputs=fields)

    # By the party that has the field; only where each field has a bottom of its own.
    bottoms = {}
    for name, party in family.owners.items():
        if f"{name}_code" in segments:
            bottoms[party] = segments[f"{name}_code"]
    last = segments[outputs[0]]
    common = {"loss": cross_entropy, "label": next(iter(tasks))}
    match configuration:
        case "vanilla":
            client = {"client": family.client, "server": "hospital"}
            return jsplit.vanilla(segments["code"], last, **client, **common)
        case "u_shaped":
            body = segments["deep"]
            return jsplit.u_shaped(
                segments["code"], body, last, client="hospital", **common
            )
        case "vertical":
            return jsplit.vertical(bottoms, last, server="hospital", **common)
        case "extended_vanilla":
            return jsplit.extended_vanilla(
                bottoms, segments["middle"], last, server="hospital", **common
            )
        case "multitask":
            servers = dict(zip(("hospital", "registry"), tasks, strict=True))
            tops = {
                party: segments[f"{task}_logits"] for party, task in servers.items()
            }
            losses = dict.fromkeys(servers, cross_entropy)
            return jsplit.multitask(bottoms, tops, losses=losses, labels=servers)
        case _:
            chain = {
                family.client: segments["code"],
                "relay_1": segments["middle"],
                "relay_2": segments["deep"],
                "hospital": last,
            }
            return jsplit.multihop(chain, **common)
