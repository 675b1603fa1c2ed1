"""Every model of the zoo with an example and its cuts, and how two computations are compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsplit
from jsplit.core.paths import by_path, nest
from tests.models import (
    CNN,
    MLP,
    Former,
    LinenCNN,
    LinenFormer,
    LinenLifted,
    LinenRecurrent,
    LinenSum,
    Narrow,
    Pair,
    Recomputed,
    Recurrent,
    Referenced,
    ResNet,
    Slashes,
    Stacked,
    Streams,
    Twice,
    Typed,
    UNet,
    Watched,
    derived,
    in_a_row,
    jitted,
    kept,
    looked_up,
    narrow,
    out_of_order,
    pairs,
    rngs,
    slashes,
    two_layers,
    vertical,
    weights,
)


class Case(NamedTuple):
    model: Callable[[], Any]
    example: tuple
    cuts: Any = None
    names: Sequence[str] = ("smashed", "output")
    options: Mapping[str, Any] = {}


row = jnp.ones((2, 4))
image = jnp.ones((2, 4, 4, 1))
words = jnp.ones((2, 3, 4))
tokens, mask = jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool)
own = {"init": weights}

CASES = {
    "mlp": Case(lambda: MLP(rngs()), (row,)),
    "mlp by path": Case(lambda: MLP(rngs()), (row,), ["a"], ("a", "output")),
    "mlp uncut": Case(lambda: MLP(rngs()), (row,), [], ("output",)),
    "cnn": Case(lambda: CNN(rngs()), (image,)),
    "resnet": Case(
        lambda: ResNet(rngs()), (image,), ["blocks.0"], ("blocks.0", "output")
    ),
    "resnet, skip crosses": Case(
        lambda: ResNet(rngs()),
        (image,),
        {"two": ["blocks.1.norm", "blocks.1.skip"]},
        ("two", "output"),
    ),
    "unet": Case(lambda: UNet(rngs()), (image,), None, ("down", "up", "output")),
    "transformer": Case(
        lambda: Former(rngs()),
        (tokens, mask),
        ["embed"],
        ("embed", "output"),
        {"public": ["mask"]},
    ),
    "rnn": Case(lambda: Recurrent(rngs()), (words,), ["rnn"], ("rnn", "output")),
    "scan and vmap": Case(lambda: Stacked(rngs()), (row,)),
    "remat": Case(lambda: Recomputed(rngs()), (row,), ["mid"], ("mid", "output")),
    "remat divided": Case(
        lambda: Recomputed(rngs()), (row,), ["mid.inner"], ("mid.inner", "output")
    ),
    "one module twice": Case(
        lambda: Twice(rngs()), (row,), {"h": "inner#2"}, ("h", "output")
    ),
    "statistics nobody reads": Case(lambda: Watched(rngs()), (row,)),
    "random streams": Case(lambda: Streams(nnx.Rngs(0, dropout=1, noise=2)), (row,)),
    "bfloat16 and uint8": Case(lambda: Narrow(rngs()), (jnp.ones((2, 4), jnp.uint8),)),
    "types and one jit": Case(
        lambda: Typed(rngs()),
        (row,),
        ["blocks.0.up", "blocks.1.up"],
        ("blocks.0.up", "blocks.1.up", "output"),
    ),
    "keys with slashes": Case(
        lambda: Slashes(rngs()), (row,), {"h": "layers.in/out"}, ("h", "output")
    ),
    "variables that are references": Case(lambda: Referenced(rngs()), (row,)),
    "narrow cnn": Case(narrow(lambda: CNN(rngs())), (image,)),
    "narrow transformer": Case(
        narrow(lambda: Former(rngs())),
        (tokens, mask),
        ["embed"],
        ("embed", "output"),
        {"public": "mask"},
    ),
    "narrow rnn": Case(
        narrow(lambda: Recurrent(rngs())), (words,), "rnn", ("rnn", "output")
    ),
    "narrow linen rnn": Case(
        narrow(LinenRecurrent), (words,), "rnn", ("rnn", "output")
    ),
    "narrow linen cnn": Case(narrow(LinenCNN), (image,)),
    "linen cnn": Case(LinenCNN, (image,)),
    "linen, a sum sown": Case(LinenSum, (row,)),
    "linen remat and jit divided": Case(
        LinenLifted,
        (row,),
        ["recomputed.up", "jitted.up"],
        ("recomputed.up", "jitted.up", "output"),
    ),
    "linen transformer": Case(LinenFormer, (words, mask), options={"public": ["mask"]}),
    "linen rnn": Case(LinenRecurrent, (words,), ["rnn"], ("rnn", "output")),
    "function": Case(lambda: two_layers, (row,), options=own),
    "function, one jit twice": Case(lambda: jitted, (row,), options=own),
    "function, remat with policies divided": Case(lambda: kept, (row,), options=own),
    "function, derivatives of its own": Case(lambda: derived, (row,), options=own),
    "function, integers cross": Case(lambda: looked_up, (row,), options=own),
    "function, pytrees": Case(lambda: pairs, (Pair(row, {"deep": row}),), options=own),
    "function, two parties": Case(
        lambda: vertical,
        (row, jnp.ones((2, 3))),
        None,
        ("left", "right", "output"),
        own,
    ),
    "function, flags and key first": Case(
        lambda: out_of_order, (row, row), options=own
    ),
    "function, keys with slashes": Case(lambda: slashes, (row,), options=own),
    "function, a chain": Case(
        lambda: in_a_row, (row,), None, ("first", "second", "output"), own
    ),
    "function, no parameters": Case(
        lambda: lambda x: jsplit.cut(jnp.sin(x), "smashed") ** 2, (row,)
    ),
}
sweep = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def random_like(example, batch, seed=0):
    leaves, structure = jax.tree.flatten(example)
    rng = np.random.default_rng(seed)

    def draw(x):
        if x.dtype == bool:
            return (
                jnp.asarray(rng.random((batch, *x.shape[1:])) < 0.7).at[:, 0].set(True)
            )
        values = (
            rng.normal(size=(batch, *x.shape[1:]))
            if jnp.issubdtype(x.dtype, jnp.inexact)
            else None
        )
        return jnp.asarray(
            rng.integers(0, 7, (batch, *x.shape[1:])) if values is None else values,
            x.dtype,
        )

    return structure.unflatten(map(draw, leaves))


def plain(tree):
    """Nested dictionaries by path, whatever the containers were."""
    leaves = by_path(tree)
    return nest(leaves.paths, leaves.shapes)


def assert_same(ours, theirs, tolerance=1e-6):
    ours, theirs = by_path(ours), by_path(theirs)
    assert sorted(map(str, ours.paths)) == sorted(map(str, theirs.paths))
    expected = dict(zip(theirs.paths, theirs.shapes, strict=True))
    for path, x in zip(ours.paths, ours.shapes, strict=True):
        y = expected[path]
        assert (x.shape, x.dtype) == (y.shape, y.dtype), path
        np.testing.assert_allclose(
            np.asarray(x, np.float64),
            np.asarray(y, np.float64),
            rtol=tolerance,
            atol=tolerance,
            err_msg=str(path),
        )


def float_leaves(tree):
    """The floating leaves, and a function that puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    free = [bool(jnp.issubdtype(x.dtype, jnp.inexact)) for x in leaves]

    def put(values):
        found = iter(values)
        return structure.unflatten(
            [next(found) if f else x for f, x in zip(free, leaves, strict=True)]
        )

    return [x for f, x in zip(free, leaves, strict=True) if f], put


def everything(apply):
    """A function to output, new state and gradients of parameters and inputs, in both modes."""

    def in_mode(params, state, key, inputs, train):
        (free, put), (data, put_data) = float_leaves(params), float_leaves(inputs)

        def loss(free, data):
            output, new = apply(put(free), state, key, *put_data(data), train=train)
            return sum(
                jnp.sin(x.astype(jnp.float32)).sum() for x in float_leaves(output)[0]
            ), (output, new)

        grads, (output, new) = jax.grad(loss, (0, 1), has_aux=True)(free, data)
        return output, new, put(grads[0]), grads[1]

    return lambda *a: [in_mode(*a, train) for train in (True, False)]
