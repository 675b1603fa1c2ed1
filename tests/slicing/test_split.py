"""Segments of a whole model, walked in order, are the whole model; what cannot be divided is refused by name."""

import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import export

import jsplit
from jsplit.core.paths import by_path, nest

# Models. Each is as small as its idea allows.


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 5, rngs=rngs)
        self.b = nnx.Linear(5, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.b(jsplit.cut(self.drop(nnx.relu(self.a(x))), "smashed"))


class CNN(nnx.Module):
    """Statistics and dropout on both sides."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(2, rngs=rngs)
        self.conv2 = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)
        self.norm2 = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.4, rngs=rngs)
        self.drop2 = nnx.Dropout(0.4, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, image):
        h = jsplit.cut(self.drop(nnx.relu(self.norm1(self.conv1(image)))), "smashed")
        h = self.drop2(nnx.relu(self.norm2(self.conv2(h))))
        return self.head(h.mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, width, out, stride, rngs):
        self.conv = nnx.Conv(width, out, (3, 3), strides=stride, rngs=rngs)
        self.norm = nnx.BatchNorm(out, rngs=rngs)
        self.skip = (
            nnx.Conv(width, out, (1, 1), strides=stride, rngs=rngs)
            if stride > 1
            else None
        )

    def __call__(self, x):
        return nnx.relu(
            self.norm(self.conv(x)) + (x if self.skip is None else self.skip(x))
        )


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(1, 1, 1, rngs), Block(1, 2, 2, rngs)])
        self.head = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, image):
        for block in self.blocks:
            image = block(image)
        return self.head(image.mean((1, 2)))


class UNet(nnx.Module):
    def __init__(self, rngs):
        self.down = nnx.Conv(1, 2, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.GroupNorm(2, num_groups=1, rngs=rngs)
        self.up = nnx.ConvTranspose(2, 1, (2, 2), strides=2, rngs=rngs)
        self.out = nnx.Conv(2, 1, (1, 1), rngs=rngs)

    def __call__(self, image):
        low = self.norm(self.down(image))
        both = jsplit.cut({"image": jnp.tanh(image), "low": low}, "down")
        return self.out(
            jnp.concatenate([jsplit.cut(self.up(both["low"]), "up"), both["image"]], -1)
        )


class Former(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 4, dropout_rate=0.2, decode=False, rngs=rngs
        )
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, tokens, mask):
        h = self.embed(tokens)
        h = jsplit.cut(h + self.attention(h, mask=mask[:, None, None]), "smashed")
        return self.head(self.norm(h)).mean(1)


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.SimpleCell(4, 3, rngs=rngs))
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])


class Stacked(nnx.Module):
    """`nnx.scan` over layers made by `nnx.vmap`, and an `nnx.jit` around it."""

    def __init__(self, rngs):
        make = nnx.vmap(lambda r: nnx.Linear(4, 4, rngs=r), in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=2)(make)(rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        step = nnx.scan(
            lambda layer, x: jnp.tanh(layer(x)),
            in_axes=(0, nnx.Carry),
            out_axes=nnx.Carry,
        )
        return self.out(jsplit.cut(step(self.layers, x), "smashed"))


class Recomputed(nnx.Module):
    """A cut at `mid.inner` divides a remat region that holds a statistic and dropout."""

    def __init__(self, rngs):
        self.mid = Remat(rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.mid(x))


class Remat(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(4, 5, rngs=rngs)
        self.outer = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    @nnx.remat
    def __call__(self, x):
        return self.norm(
            jnp.tanh(self.outer(self.drop(jnp.tanh(self.inner(jnp.tanh(x))))))
        )


class Twice(nnx.Module):
    """One module on one side, called twice."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(4, 4, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.sin(self.inner(jnp.tanh(self.inner(x)))))


class Penalty(nnx.Variable):
    pass


class Watched(nnx.Module):
    """A penalty sown anew, a counter, and an average that needs the counter; no output reads any."""

    def __init__(self, rngs):
        self.a = nnx.Linear(4, 5, rngs=rngs)
        self.b = nnx.Linear(5, 3, rngs=rngs)
        self.count = nnx.BatchStat(jnp.zeros(()))
        self.mean = nnx.BatchStat(jnp.zeros(5))

    def __call__(self, x):
        h = self.a(x)
        self.penalty = Penalty((h**2).mean())
        self.count[...] = self.count[...] + 1
        self.mean[...] = self.mean[...] + (h.mean(0) - self.mean[...]) / self.count[...]
        return self.b(jsplit.cut(h, "smashed"))


class Streams(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.rngs = rngs.fork()

    def __call__(self, x):
        h = jsplit.cut(self.a(self.drop(x)), "smashed")
        return jnp.sin(h) + jax.random.normal(self.rngs.noise(), h.shape)


class Narrow(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 5, dtype=jnp.bfloat16, rngs=rngs)
        self.b = nnx.Linear(5, 3, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, image):
        return self.b(jsplit.cut(self.a(image.astype(jnp.float32) / 255), "smashed"))


class Registered(nnx.Linear):
    """A class that knows every class made of it."""

    below: list = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.below.append(cls)


class Typed(nnx.Module):
    """What a layer does depends on its exact type; the blocks share one `nnx.jit`, which has run before."""

    def __init__(self, rngs):
        self.blocks = nnx.List([Jitted(rngs), Jitted(rngs)])
        self(jnp.ones((2, 4)))

    def __call__(self, x):
        for block in self.blocks:
            x = (
                block(x)
                if type(block) is Jitted and type(block.up) is Registered
                else jnp.ones_like(x)
            )
        return x.sum(-1)


class Jitted(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = Registered(4, 5, rngs=rngs), Registered(5, 4, rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        return self.down(jnp.tanh(self.up(x)))


class Slashes(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.Dict({"in/out": Pairwise(rngs)})
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        both = self.layers["in/out"](x)
        return self.out(both["f/1"] * both["f/2"])


class Pairwise(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return {"f/1": jnp.sin(self.a(x)), "f/2": jnp.cos(self.a(x))}


class Referenced(nnx.Module):
    """Its variables are mutable array references."""

    def __init__(self, rngs):
        with nnx.var_defaults(ref=True):
            self.a, self.b = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.b(jsplit.cut(self.a(x), "smashed"))


class LinenSum(linen.Module):
    """Sows a sum, in the collection of a counter that is kept."""

    @linen.compact
    def __call__(self, x):
        count = self.variable("losses", "count", jnp.zeros, ())
        count.value += 1
        h = LinenBlock(name="block")(x)
        self.sow(
            "losses",
            "norm",
            (h**2).mean(),
            init_fn=lambda: 0.0,
            reduce_fn=lambda a, b: a + b,
        )
        return linen.Dense(2)(jsplit.cut(h, "smashed"))


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, image, train):
        h = linen.Conv(2, (3, 3), name="conv")(image)
        h = linen.BatchNorm(use_running_average=not train)(h)
        h = jsplit.cut(
            linen.Dropout(0.3, deterministic=not train)(nnx.relu(h)), "smashed"
        )
        self.sow("losses", "penalty", (h**2).mean())
        return linen.Dense(2)(h.mean((1, 2)))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        return jnp.tanh(
            linen.Dense(4, name="down")(jnp.tanh(linen.Dense(5, name="up")(x)))
        )


class LinenLifted(linen.Module):
    """remat, jit and scan, as linen lifts them."""

    @linen.compact
    def __call__(self, x):
        x = linen.jit(LinenBlock)(name="jitted")(
            linen.remat(LinenBlock)(name="recomputed")(x)
        )
        scan = linen.scan(
            lambda m, x, _: (m(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        return linen.Dense(2)(scan(LinenBlock(name="layers"), x, None)[0])


class LinenFormer(linen.Module):
    @linen.compact
    def __call__(self, x, mask, deterministic):
        x = jsplit.cut(linen.LayerNorm()(x) + mask[..., None], "smashed")
        attention = linen.MultiHeadDotProductAttention(2, dropout_rate=0.1)
        return linen.Dense(2)(
            x + attention(x, mask=mask[:, None, None], deterministic=deterministic)
        ).mean(1)


class LinenRecurrent(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.RNN(linen.SimpleCell(3), name="rnn")(x)[:, -1])


def weights(key, *inputs):
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=shape))
        for name, shape in (("a", (4, 3)), ("b", (3, 4)), ("c", (4, 2)))
    }


def two_layers(params, x):
    return jsplit.cut(jnp.tanh(x @ params["a"]), "smashed") @ params["b"]


@jax.jit
def dense(w, x):
    return jnp.tanh(x @ w)


def jitted(params, x):
    return dense(params["b"], jsplit.cut(dense(params["a"], x), "smashed")).sum(-1)


def kept(params, x):
    """Two nested remat regions with policies, and a cut within both."""

    @partial(
        jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("kept")
    )
    def outer(params, x):
        h = jax.ad_checkpoint.checkpoint_name(jnp.sin(x @ params["a"]), "kept")

        @jax.checkpoint
        def inner(h, w):
            return jnp.sin(jsplit.cut(jnp.cos(h), "smashed") @ w)

        return jnp.cos(inner(h, params["b"]))

    return outer(params, x) @ params["c"]


@jax.custom_vjp
def thrice(x):
    return jnp.sin(x)


thrice.defvjp(lambda x: (thrice(x), x), lambda x, g: (3 * g * jnp.cos(x),))


@jax.custom_jvp
def twofold(x):
    return jnp.sin(x)


twofold.defjvps(lambda t, ans, x: 2 * t)


def derived(params, x):
    h = jsplit.cut(twofold(thrice(x @ params["a"])), "smashed")
    return jax.lax.cond(
        h.sum() > 0, lambda h: h @ params["b"], lambda h: thrice(h) @ params["b"] * 2, h
    )


def looked_up(params, x):
    h = x @ params["a"]
    both = jsplit.cut({"which": jnp.argmax(h, -1), "h": h}, "smashed")
    return params["b"][both["which"]] + both["h"] @ params["b"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    u: jax.Array
    v: jax.Array


def pairs(params, x):
    """A dataclass goes in, crosses and comes out; one of its arrays is cut value and output at once."""
    h = jsplit.cut(Pair(x.u @ params["a"], x.v["deep"] @ params["a"]), "smashed")
    return Pair(h.u @ params["b"], (h.v, h.u.sum(1)))


def vertical(params, x, y):
    right, left = (
        jsplit.cut(y @ params["b"], "right"),
        jsplit.cut(x @ params["a"], "left"),
    )
    return jnp.concatenate([left, right], -1).sum(-1)


def in_a_row(params, x):
    h = jsplit.cut(jnp.tanh(x @ params["a"]), "first")
    return jsplit.cut(jnp.tanh(h @ params["b"]), "second") @ params["c"]


def out_of_order(params, deterministic, x, key, *, y, train=False):
    """Flags and a key before the inputs, one of them by keyword only."""
    h = jsplit.cut(x @ params["a"] + jax.random.normal(key, (3,)) * train, "smashed")
    return h @ params["b"] * y + deterministic


def slashes(params, x):
    both = jsplit.cut(
        {"enc/u": x @ params["a"], "enc": {"v": jnp.sin(x) @ params["a"]}}, "smashed"
    )
    return (both["enc/u"] + both["enc"]["v"]) @ params["b"]


def narrow(make):
    return lambda: jsplit.mixed_precision(make())


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
        {"shared_inputs": ["mask"]},
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
        {"shared_inputs": "mask"},
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
    "linen transformer": Case(
        LinenFormer, (words, mask), options={"shared_inputs": ["mask"]}
    ),
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


@sweep
def test_split_then_join_is_the_whole_model(case):
    """Parameters, outputs, gradients, statistics and dropout, in both modes, at another batch size than the example's."""
    model, key = case.model(), jax.random.key(1)
    shared = {k: v for k, v in case.options.items() if k == "shared_inputs"}
    options = {k: v for k, v in case.options.items() if k not in shared}
    whole = jsplit.segment(model, **options)
    parts = jsplit.split(model, *case.example, cuts=case.cuts, **case.options)
    joined = jsplit.join(parts, inputs=whole.inputs)
    assert sorted(parts) == sorted(case.names) and list(parts)[-1] == case.names[-1]

    params, state = whole.init(key, *case.example)
    ours, ours_state = joined.init(key, *case.example)
    assert_same(jsplit.merge(*ours.values()), plain(params), 0)
    assert_same(jsplit.merge(*ours_state.values()), plain(state), 0)

    inputs = random_like(case.example, 3)
    both = jax.jit(
        lambda a, b: (everything(whole.apply)(*a), everything(joined.apply)(*b))
    )
    theirs, found = both((params, state, key, inputs), (ours, ours_state, key, inputs))
    for (output, new, grads, data), (output2, new2, grads2, data2) in zip(
        theirs, found, strict=True
    ):
        assert_same(output2, output)
        assert_same(jsplit.merge(*new2.values()), plain(new))
        assert_same(jsplit.merge(*grads2.values()), plain(grads))
        assert_same(data2, data)


@sweep
def test_a_segment_has_the_parameters_it_reads_and_no_others(case):
    """Every parameter is an input that some equation of its own jaxpr uses; only the last keeps those nobody reads."""
    model_options = {k: v for k, v in case.options.items() if k != "shared_inputs"}
    parts = jsplit.split(case.model(), *case.example, cuts=case.cuts, **case.options)
    values = dict(
        zip(
            jsplit.segment(case.model(), **model_options).inputs,
            case.example,
            strict=True,
        )
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    for name, part in parts.items():
        params, state = jax.eval_shape(part.init, key)
        inputs = [values[i] for i in part.inputs]
        paths = by_path(params).paths
        used = set()
        for train in (True, False):
            jaxpr = jax.make_jaxpr(partial(part.apply, train=train))(
                params, state, key, *inputs
            ).jaxpr
            read = {id(v) for e in jaxpr.eqns for v in e.invars} | {
                id(v) for v in jaxpr.outvars
            }
            used |= {
                path
                for path, v in zip(paths, jaxpr.invars, strict=False)
                if id(v) in read
            }
        unread = (
            {("c",), ("b",)}
            if case.options.get("init") is weights and name == "output"
            else set()
        )
        assert set(paths) - used <= unread
        assert part.trainable == bool(paths)
        values[name] = jax.eval_shape(part.apply, params, state, key, *inputs)[0]


# What a segment is.


def reachable_arrays(*roots):
    """Every array that an object refers to, through closures, records and caches, but not through module globals."""
    seen, todo = {}, list(roots)
    while todo:
        at = todo.pop()
        if id(at) in seen or isinstance(at, (type, ModuleType)):
            continue
        seen[id(at)] = at
        beyond = at.__globals__ if isinstance(at, FunctionType) else None
        todo += [x for x in gc.get_referents(at) if x is not beyond]
    return [x for x in seen.values() if isinstance(x, (jax.Array, np.ndarray))]


def test_a_segment_holds_no_array_of_another():
    class Wide(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(4, 101, rngs=rngs)
            self.norm = nnx.BatchNorm(101, rngs=rngs)
            self.b = nnx.Linear(101, 103, rngs=rngs)

        def __call__(self, x):
            return self.b(jsplit.cut(self.norm(self.a(x)), "smashed"))

    parts = jsplit.split(Wide(rngs()), row)
    for part in parts.values():
        part.apply(
            *part.init(None), None, jnp.ones((3, 4 if part.name == "smashed" else 101))
        )
    shapes = {
        n: {x.shape for x in reachable_arrays(p.init, p.apply) if x.size > 100}
        for n, p in parts.items()
    }
    assert shapes == {"smashed": {(4, 101), (101,)}, "output": {(101, 103), (103,)}}


def test_a_segment_takes_up_no_constant_that_another_reads():
    table = np.arange(300.0, dtype=np.float32).reshape(100, 3)
    parts = jsplit.split(
        lambda p, x: jsplit.cut(x @ p["a"] + jnp.asarray(table)[7], "h") @ p["b"],
        row,
        init=weights,
    )
    params, state = parts["output"].init(jax.random.key(0))
    jaxpr = jax.make_jaxpr(parts["output"].apply)(params, state, None, jnp.ones((2, 3)))
    assert all(np.size(c) < 100 for c in jaxpr.consts) and "100" not in str(jaxpr)


@pytest.mark.parametrize("name", ["mlp", "cnn", "linen cnn"])
def test_a_free_batch_size_can_be_exported(name):
    case = CASES[name]
    joined = jsplit.join(jsplit.split(case.model(), *case.example, cuts=case.cuts))
    params, state = joined.init(jax.random.key(0), *case.example)

    @jax.jit
    def infer(x):
        return joined.apply(params, state, None, x, train=False)[0]

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(infer)(
        jax.ShapeDtypeStruct((batch, *case.example[0].shape[1:]), jnp.float32)
    )
    x = random_like(case.example[0], 5)
    assert_same(exported.call(x), infer(x))


def test_segments_run_under_vmap():
    joined = jsplit.join(jsplit.split(MLP(rngs()), row))
    params, state = joined.init(jax.random.key(0), row)
    x, keys = (
        random_like(jnp.ones((3, 2, 4)), 3),
        jax.random.split(jax.random.key(1), 3),
    )

    def one(key, x):
        return joined.apply(params, state, key, x)[0]

    together, apart = jax.jit(
        lambda: (
            jax.vmap(one)(keys, x),
            jnp.stack([one(keys[i], x[i]) for i in range(3)]),
        )
    )()
    assert_same(together, apart)


def test_an_old_style_key_is_the_new_one():
    part = jsplit.split(MLP(rngs()), row)["smashed"]
    first = part.init(None)
    assert_same(
        part.apply(*first, jax.random.PRNGKey(3), row),
        part.apply(*first, jax.random.key(3), row),
        0,
    )


def test_split_works_in_double_precision():
    with jax.enable_x64(True):
        x = jnp.linspace(-1, 1, 8).reshape(2, 4)
        whole, joined = (
            jsplit.segment(two_layers, init=weights),
            jsplit.join(jsplit.split(two_layers, x, init=weights)),
        )
        params, _ = whole.init(jax.random.key(0), x)
        ours, state = joined.init(jax.random.key(0), x)
        assert params["a"].dtype == jnp.float64
        assert_same(
            joined.apply(ours, state, None, x)[0],
            whole.apply(params, {}, None, x)[0],
            1e-14,
        )
        assert_same(jsplit.merge(*ours.values()), params, 0)


def test_a_segment_can_be_split_again():
    parts = jsplit.split(CNN(rngs()), image)
    again = jsplit.split(parts["output"], jnp.ones((2, 4, 4, 2)), cuts=["norm2"])
    assert list(again) == ["norm2", "output"] and again["norm2"].inputs == ("smashed",)
    first = {
        n: p.init(jax.random.key(0))
        for n, p in {**again, "whole": parts["output"]}.items()
    }
    assert_same(
        jsplit.merge(first["norm2"][0], first["output"][0]), first["whole"][0], 0
    )
    h = random_like(jnp.ones((2, 4, 4, 2)), 3)
    middle, _ = again["norm2"].apply(*first["norm2"], jax.random.key(5), h)
    end, _ = again["output"].apply(*first["output"], jax.random.key(5), middle)
    assert_same(end, parts["output"].apply(*first["whole"], jax.random.key(5), h)[0])


@pytest.mark.parametrize("name", ["smashed", "output"])
def test_each_slice_of_a_remat_region_recomputes_its_own_part(name):
    """The gradient's jaxpr holds the region and its policy, and computes the region's sine or cosine again."""
    part = jsplit.split(kept, row, init=weights)[name]
    params, state = part.init(jax.random.key(0))
    x = row if name == "smashed" else jnp.ones((2, 3))
    jaxpr = jax.make_jaxpr(
        jax.grad(lambda p, x: part.apply(p, state, None, x)[0].sum(), (0, 1))
    )(params, x)
    regions = [
        e for e in jaxpr.eqns if e.primitive.name in ("remat", "remat2", "checkpoint")
    ]
    assert regions and any(e.params["policy"] is not None for e in regions)


def test_statistics_belong_to_the_segment_that_can_update_them():
    parts = jsplit.split(Watched(rngs()), row)
    held = {n: sorted(p.init(None)[1]) for n, p in parts.items()}
    assert held == {"smashed": ["count", "mean", "penalty"], "output": []}
    held = {
        n: p.init(jax.random.key(0))[1]
        for n, p in jsplit.split(LinenCNN(), image).items()
    }
    assert sorted(held["smashed"]) == ["batch_stats"] and sorted(held["output"]) == [
        "losses"
    ]


def test_outputs_are_segments_of_their_own_where_named():
    def heads(params, x):
        h = jsplit.cut(x @ params["a"], "h")
        return {"one": h @ params["b"], "two": h.sum(1)}

    whole = heads(weights(jax.random.key(0)), row)
    for model, names in (
        (heads, ["one", "two"]),
        (lambda p, x: tuple(heads(p, x).values()), ["one", "two"]),
    ):
        parts = jsplit.split(model, row, init=weights, outputs=names)
        assert list(parts) == ["h", *names] and not parts["one"].inputs == ("x",)
        joined = jsplit.join(parts)
        assert_same(
            joined.apply(*joined.init(jax.random.key(0), row), None, row)[0], whole
        )
    parts = jsplit.split(heads, row, init=weights, outputs=["two"])
    assert list(parts) == ["h", "two"]
    assert list(jsplit.split(two_layers, row, init=weights, outputs=["logits"])) == [
        "smashed",
        "logits",
    ]


def test_a_watched_model_leaves_nothing_behind():
    call, below = Registered.__call__, list(Registered.below)
    jsplit.split(Typed(rngs()), row, cuts=["blocks.0.up"])
    with pytest.raises(ValueError, match="does not exist"):
        jsplit.split(Typed(rngs()), row, cuts=["nowhere"])
    assert (
        Registered.__call__ is call
        and "__call__" not in vars(Registered)
        and Registered.below == below
    )


def test_models_are_divided_in_several_threads_at_once():
    with ThreadPoolExecutor(3) as threads:
        found = list(
            threads.map(
                lambda i: list(
                    jsplit.split(Typed(nnx.Rngs(i)), row, cuts=["blocks.0.up"])
                ),
                range(6),
            )
        )
    assert found == [["blocks.0.up", "output"]] * 6


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("narrow")])
def test_what_a_model_of_mixed_precision_sends_is_narrow(name):
    """What crosses is narrow, and so is what is computed; parameters, gradients and statistics are not."""
    case = CASES[name]
    part = next(
        iter(
            jsplit.split(
                case.model(), *case.example, cuts=case.cuts, **case.options
            ).values()
        )
    )
    params, state = part.init(jax.random.key(0))
    sent, new = jax.eval_shape(
        part.apply, params, state, jax.random.key(0), *case.example[: len(part.inputs)]
    )
    assert sent.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((params, new))} == {np.dtype("float32")}


def test_a_statistic_of_training_alone_keeps_its_dtype():
    class Once(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, train):
            h = jsplit.cut(self.a(x), "h")
            if train:
                self.norm = nnx.BatchStat((h**2).mean())
            return h * 2

    part = jsplit.mixed_precision(Once(rngs()))
    params, state = part.init(jax.random.key(0), row)
    for train in (True, False):
        new = part.apply(params, state, None, row, train=train)[1]
        assert jax.tree.map(jnp.result_type, new) == (
            {"norm": jnp.float32} if train else {}
        )
    assert list(jsplit.split(part, row)) == ["h", "output"]


def test_mixed_precision_takes_numbers_and_refuses_what_is_no_dtype():
    assert (
        jsplit.mixed_precision(lambda x: x * 2).apply({}, {}, None, 3.0)[0].dtype
        == jnp.bfloat16
    )
    for dtype in ("nonsense", "int32"):
        with pytest.raises(
            ValueError, match=f"`compute` must be a floating dtype, got '{dtype}'"
        ):
            jsplit.mixed_precision(two_layers, dtype, init=weights)


# Where one can cut.


@pytest.mark.parametrize("name", ["resnet", "remat", "one module twice"])
def test_every_cut_point_splits_and_joins_to_the_whole(name):
    case = CASES[name]
    model, key = case.model(), jax.random.key(1)
    points = jsplit.cut_points(model, *case.example, **case.options)
    whole = jsplit.segment(model, **case.options)
    params, state = whole.init(key, *case.example)
    inputs = random_like(case.example, 3)

    def run(apply, params, state):
        def loss(params):
            output, new = apply(params, state, key, *inputs)
            return jnp.sin(output).sum(), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    splits = [
        jsplit.split(model, *case.example, cuts=[p], **case.options) for p in points
    ]
    joined = [jsplit.join(parts) for parts in splits]
    first = [j.init(key, *case.example) for j in joined]
    run_all = jax.jit(
        lambda p, s, f: (
            run(whole.apply, p, s),
            [run(j.apply, *x) for j, x in zip(joined, f, strict=True)],
        )
    )
    ((loss, new), grads), found = run_all(params, state, first)
    for point, parts, ((loss2, new2), grads2) in zip(
        points, splits, found, strict=True
    ):
        assert list(parts) == [point.name, "output"]
        assert_same(
            (loss2, jsplit.merge(*new2.values()), jsplit.merge(*grads2.values())),
            (loss, plain(new), plain(grads)),
        )
        (own, statistics), given = parts[point.name].init(key), [inputs[0]]
        value = jax.eval_shape(parts[point.name].apply, own, statistics, key, *given)[0]
        assert value.shape == (3, *point.shape) and value.dtype == point.dtype
        assert point.params == sum(x.size for x in jax.tree.leaves(own))
        assert (
            point.param_bytes == 4 * point.params
            and point.bytes_per_example == 4 * np.prod(point.shape)
        )


def test_cut_points_have_readable_names():
    names = [p.name for p in jsplit.cut_points(CNN(rngs()), image)]
    expected = [
        "conv1",
        "norm1",
        "norm1/relu",
        "smashed",
        "conv2",
        "norm2",
        "norm2/relu",
        "drop2",
    ]
    assert [n for n in names if n in expected] == [n for n in expected if n in names]
    assert set(expected) - set(names) <= {"norm1/relu"}
    assert [
        p.name
        for p in jsplit.cut_points(ResNet(rngs()), image)
        if "/" not in p.name and "_" not in p.name
    ] == [
        "blocks.0",
        "blocks.1",
    ]
    twice = [p.name for p in jsplit.cut_points(Twice(rngs()), row)]
    assert "inner#2" in twice and "inner" not in twice and "inner#1" not in twice


def test_an_input_in_every_layer_leaves_cut_points_only_if_it_is_shared():
    alone = [p.name for p in jsplit.cut_points(Former(rngs()), tokens, mask)]
    shared = [
        p.name
        for p in jsplit.cut_points(Former(rngs()), tokens, mask, shared_inputs=["mask"])
    ]
    assert (
        "embed" not in alone
        and "embed" in shared
        and {"smashed", "norm"} < set(alone) < set(shared)
    )


class TwoValues(nnx.Module):
    """Returns two values, and is called twice."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, h):
        h = jnp.tanh(self.layer(h))
        return h, h.sum(1)


class Unrolled(nnx.Module):
    def __init__(self, rngs):
        self.pair = TwoValues(rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.pair(self.pair(x)[0])[0])


def test_every_name_that_cut_points_gives_is_one_that_split_takes():
    points = jsplit.cut_points(Unrolled(rngs()), row)
    assert "pair#2/0" in [p.name for p in points]
    for point in points:
        assert list(jsplit.split(Unrolled(rngs()), row, cuts=[point])) == [
            point.name,
            "output",
        ]


def test_cut_points_need_shapes_only():
    shape = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
    assert jsplit.cut_points(CNN(rngs()), shape) == jsplit.cut_points(
        CNN(rngs()), image
    )


def test_a_cut_before_what_only_training_computes_is_none_in_inference():
    def model(params, x, train):
        h = jsplit.cut(x @ params["a"], "h")
        return h * 2 if train else h

    parts = jsplit.split(model, row, init=weights)
    h = jnp.ones((2, 3))
    assert [
        parts["output"].apply(*parts["output"].init(None), None, h, train=t)[0][0, 0]
        for t in (True, False)
    ] == [2, 1]


def test_a_cut_may_be_an_entry_of_cut_points_under_a_name_of_its_own():
    point = next(p for p in jsplit.cut_points(MLP(rngs()), row) if p.name == "a")
    assert list(jsplit.split(MLP(rngs()), row, cuts={"h": point})) == ["h", "output"]
    assert list(jsplit.split(MLP(rngs()), row, cuts={"h": [point]})) == ["h", "output"]


# What is refused.


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.b = nnx.Linear(4, 4, rngs=rngs)
        self.b.kernel = self.a.kernel

    def __call__(self, x):
        return self.b(jsplit.cut(self.a(x), "smashed"))


class TiedNorm(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(jsplit.cut(jnp.tanh(self.norm(x)), "smashed"))


class Astride(nnx.Module):
    """A statistic of what one side has and the other has."""

    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.b = nnx.Linear(4, 4, rngs=rngs)
        self.both = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        y = self.b(jsplit.cut(jnp.tanh(self.a(x)), "smashed"))
        self.both[...] = (x * y).mean()
        return y


def scanned(params, x):
    def body(h, w):
        return jsplit.cut(jnp.tanh(h @ w), "smashed"), None

    return jax.lax.scan(body, x, params["b"])[0]


@jax.custom_vjp
def marked(x):
    return jsplit.cut(jnp.sin(x), "smashed")


marked.defvjp(lambda x: (marked(x), x), lambda x, g: (g * jnp.cos(x),))


def dead(params, x):
    jsplit.cut(x @ params["c"], "dead")
    return jsplit.cut(x @ params["a"], "h") @ params["b"]


def only_in(mode):
    return lambda p, x, train: (
        (jsplit.cut(x @ p["a"], "h") if train is mode else x @ p["a"]) @ p["b"]
    )


def in_place(params, x):
    h = jax.new_ref(jsplit.cut(x @ params["a"], "h"))
    h[...] = jnp.tanh(h[...])
    return h[...] @ params["b"]


def square(key, *inputs):
    return {"b": jnp.ones((3, 4, 4))}


REFUSED = {
    "a skip connection around a cut": (
        lambda p, x: jsplit.cut(jnp.tanh(x @ p["a"]), "h") @ p["b"] + jnp.sin(x),
        {},
        r"skip connection goes around the cut `h`: the input `x` is read by `h` and `output` \(x -> sin -> add -> output\)",
    ),
    "a weight tied across a cut": (
        Tied(rngs()),
        {},
        r"weight `a.kernel` is tied across a cut.*-> b -> output",
    ),
    "a weight tied, through a value with another name": (
        lambda p, x: (
            jsplit.cut(x @ p["a"], "h")
            @ jax.ad_checkpoint.checkpoint_name(p["a"].T, "mine")
        ),
        {},
        r"weight `a` is tied across a cut: `h` and `output` read it \(a -> transpose -> mine -> dot_general -> output\)",
    ),
    "a statistic tied across a cut": (
        TiedNorm(rngs()),
        {},
        r"statistic `norm.mean` is tied across a cut",
    ),
    "a statistic that no segment can update": (
        Astride(rngs()),
        {},
        r"statistic `both` needs `smashed`.*no single segment",
    ),
    "a cut that does not exist": (
        MLP(rngs()),
        {"cuts": ["smached"]},
        r"cut `smached` does not exist.*'smashed'",
    ),
    "a call that does not exist": (
        Twice(rngs()),
        {"cuts": ["inner#3"]},
        r"cut `inner#3` does not exist",
    ),
    "a submodule called several times": (
        Twice(rngs()),
        {"cuts": ["inner"]},
        r"called 2 times; say `inner#1` to `inner#2`",
    ),
    "a cut inside a scan": (
        scanned,
        {"init": square},
        r"cut `smashed` lies inside the body of a `scan`",
    ),
    "a cut inside an nnx scan": (
        Recurrent(rngs()),
        {"cuts": ["rnn.cell"]},
        r"inside the body of a `scan`",
    ),
    "a cut inside a linen scan": (
        LinenLifted(),
        {"cuts": ["layers.up"]},
        r"inside the body of a `scan`",
    ),
    "a cut inside a cond": (
        lambda p, x: (
            jax.lax.cond(x.sum() > 0, lambda x: jsplit.cut(jnp.sin(x), "h"), jnp.cos, x)
            @ p["a"]
        ),
        {"cuts": ["h"]},
        r"cut `h` lies inside the body of a `cond`",
    ),
    "a cut inside a custom derivative": (
        lambda p, x: marked(x @ p["a"]),
        {"cuts": ["smashed"]},
        r"inside the body of a `custom_vjp_call`",
    ),
    "a cut of a raw input": (
        lambda p, x: jsplit.cut(x, "h") @ p["a"],
        {},
        r"cut `h` holds the raw input `x`",
    ),
    "a cut of the output": (
        lambda p, x: jsplit.cut(x @ p["a"], "h"),
        {},
        r"output `output` is `h` itself",
    ),
    "a cut that nothing reads": (dead, {}, r"cut `dead` separates nothing: no output"),
    "a cut of no input": (
        lambda p, x: x @ p["a"] + jsplit.cut(jnp.ones((len(x), 3)) * p["b"][:, 0], "h"),
        {},
        r"cut `h` depends on no input",
    ),
    "a cut without batch axis": (
        lambda p, x: jsplit.cut(x.reshape(-1, 2) @ p["a"][:2], "h").sum() * x[:, 0],
        {"shared_inputs": ["x"]},
        r"cut `h` holds an array of shape \(4, 3\); its leading axis must be the batch, 2",
    ),
    "an axis as long as the batch by chance": (
        lambda p, x: (
            jsplit.cut(x.reshape(-1, 2, 2).swapaxes(0, 1) @ p["a"][:2], "h") @ p["b"]
        ).sum(0),
        {},
        r"cut `h` holds an array of shape \(2, 4, 3\); its leading axis must be the batch, 4",
    ),
    "a model for one batch size": (
        lambda p, x: jsplit.cut(x @ p["a"] + jnp.ones((2, 3)), "h") @ p["b"],
        {},
        r"batch size must be free.* with 4",
    ),
    "a cut named as an input": (
        lambda p, x: jsplit.cut(x @ p["a"], "x") @ p["b"],
        {},
        r"cut `x` has the name of an input",
    ),
    "outputs that the model does not return": (
        two_layers,
        {"outputs": ["u", "v"]},
        r"`outputs` names \['u', 'v'\], but the model returns one array",
    ),
    "outputs that are not its keys": (
        lambda p, x: {"u": two_layers(p, x)},
        {"outputs": ["u", "v"]},
        r"`outputs` names .* returns the keys \['u'\]",
    ),
    "outputs that share what no cut precedes": (
        lambda p, x: (x @ p["a"], x @ p["c"]),
        {"outputs": ["u", "v"]},
        r"input `x` is read by `u` and `v`.*no cut lies before",
    ),
    "an output that is an input": (
        lambda p, x: (two_layers(p, x), x),
        {"outputs": ["u", "v"], "shared_inputs": ["x"]},
        r"output `v` is `x` itself",
    ),
    "an output of no input": (
        lambda p, x: (two_layers(p, x), p["c"] * 2),
        {"outputs": ["u", "v"]},
        r"output `v` depends on no input",
    ),
    "an output named as an input": (
        lambda p, x: {"x": two_layers(p, x)},
        {"outputs": ["x"]},
        r"output `x` has the name of an input",
    ),
    "an input named as the output": (
        two_layers,
        {"inputs": "output"},
        r"output `output` has the name of an input",
    ),
    "one name for two outputs": (
        two_layers,
        {"outputs": ["u", "u"]},
        r"`outputs` names `u` twice",
    ),
    "outputs that are no names": (
        two_layers,
        {"outputs": 3},
        r"`outputs` must be names, got 3",
    ),
    "cuts that are no names": (two_layers, {"cuts": 3}, r"`cuts` must be names, got 3"),
    "a cut of no name": (
        two_layers,
        {"cuts": {"h": 3}},
        r"`cuts` must be names, got 3",
    ),
    "a cut of a list": (
        two_layers,
        {"cuts": [["h"]]},
        r"`cuts` must be names, got \['h'\]",
    ),
    "a cut whose name is none": (
        two_layers,
        {"cuts": {1: "smashed"}},
        r"`cuts` must be names, got 1",
    ),
    "cuts that need each other": (
        lambda p, x: (
            jsplit.cut(
                jsplit.cut(jsplit.cut(x @ p["a"], "A") @ p["b"], "B") @ p["a"], "A"
            )
            @ p["b"]
        ),
        {},
        r"the cuts `B`, `A` read each other's values in a circle",
    ),
    "one value in two cuts": (
        in_a_row,
        {"cuts": {"h": "first", "g": ["first", "second"]}},
        r"the cuts `h` and `g` hold the same value",
    ),
    "a cut in training only": (
        only_in(True),
        {},
        r"cut `h` exists only in training; .* in inference too",
    ),
    "a cut in inference only": (
        only_in(False),
        {},
        r"cut `h` exists only in inference; .* in training too",
    ),
    "a mutable array": (in_place, {}, r"a mutable array reference \(in `new_ref`\)"),
    "a shared input that is none": (
        two_layers,
        {"shared_inputs": ["y"]},
        r"`shared_inputs` names \['y'\].*\['x'\]",
    ),
}


@pytest.mark.parametrize("model, options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_divided_is_refused_by_name(model, options, message):
    functions = {"init": weights} if isinstance(model, FunctionType) else {}
    x = words if isinstance(model, Recurrent) else row
    with pytest.raises(ValueError, match=message) as error:
        jsplit.split(model, x, **{**functions, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "example, message",
    [
        ((), r"takes `inputs` \['x', 'y'\], but the example has 0"),
        ((row, jnp.ones((3, 3))), "batch axes differ: `x` has 2, `y` has 3"),
        ((row, jnp.ones(())), "`y` has no batch axis"),
        ((jnp.ones((0, 4)), jnp.ones((0, 3))), "batch is empty"),
        ((row, "row"), "example of `y` must hold arrays, or their shapes, got 'row'"),
        (
            ({"u": row, "v": jnp.ones((3, 4))}, row),
            "batch axes differ: `x` has 2 and 3",
        ),
    ],
)
def test_an_example_that_is_no_batch_is_refused(example, message):
    with pytest.raises(ValueError, match=message):
        jsplit.split(vertical, *example, init=weights)


def test_an_error_of_the_model_itself_is_not_the_batch_sizes():
    with pytest.raises(KeyError, match="missing"):
        jsplit.split(lambda p, x: x @ p["missing"], row, init=weights)
    with pytest.raises(KeyError, match="missing"):
        jsplit.split(
            lambda p, x, train: x @ p["a" if train else "missing"], row, init=weights
        )

    def fixed(params, x):
        assert len(x) == 2
        return jsplit.cut(x @ params["a"], "h") @ params["b"]

    with pytest.raises(
        ValueError,
        match="batch size must be free, but the model does not run with 4: AssertionError",
    ):
        jsplit.split(fixed, row, init=weights)


def test_a_model_of_shapes_can_be_divided_but_not_run():
    part = jsplit.split(nnx.eval_shape(lambda: MLP(rngs())), row)["smashed"]
    with pytest.raises(
        ValueError,
        match=r"`smashed` has only the shape of `a.bias`, float32\[5\], and needs its value",
    ):
        part.apply(*part.init(None), None, row)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"inputs": (jnp.ones((2, 5)),)},
            r"segment `smashed` expects `x` as float32\[2,4\], got float32\[2,5\]",
        ),
        (
            {"inputs": (jnp.ones((2, 4), jnp.bfloat16),)},
            r"expects `x` as float32\[2,4\], got bfloat16",
        ),
        ({"inputs": ({"x": row},)}, r"segment `smashed` expects `x` as PyTreeDef"),
        ({"inputs": (jnp.ones((0, 4)),)}, "batch is empty"),
        ({"inputs": ()}, r"takes the inputs \['x'\], got 0 values"),
        ({"params": {}}, "segment `smashed` needs the weight `a.bias`"),
        (
            {"params": {"a": {"bias": jnp.ones(5), "kernel": jnp.ones((4, 6))}}},
            r"`a.kernel` as float32\[4,5\], got",
        ),
        (
            {"key": jax.random.key(0, impl="rbg")},
            r"expects `key` as key<fry>\[\], got key<rbg>",
        ),
    ],
)
def test_what_a_segment_cannot_take_is_refused_by_name(change, message):
    part = jsplit.split(MLP(rngs()), row)["smashed"]
    params, state = part.init(None)
    given: dict[str, Any] = {
        "params": params,
        "key": jax.random.key(0),
        "inputs": (row,),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        part.apply(given["params"], state, given["key"], *given["inputs"])


@pytest.mark.parametrize("name", ["", "1st", "a b", "a..b", "a/b"])
def test_a_cut_needs_a_name(name):
    with pytest.raises(ValueError, match="`name` of a cut must be an identifier"):
        jsplit.cut(row, name)


def test_a_cut_needs_an_array():
    with pytest.raises(ValueError, match="`value` of the cut `h` holds no array"):
        jsplit.cut({}, "h")


def test_a_cut_changes_nothing_where_the_model_is_not_split():
    assert jsplit.cut(row, "h") is not None and (jsplit.cut(row, "h") == row).all()
    assert (
        jax.grad(lambda x: jnp.sin(jsplit.cut(x, "h")).sum())(row) == jnp.cos(row)
    ).all()


# Together again.


def test_merge_refuses_a_leaf_that_two_hold():
    assert jsplit.merge({"a": {"x": 1}}, {"a": {"y": 2}}, {}) == {"a": {"x": 1, "y": 2}}
    for other in ({"a": {"x": 3}}, {"a": 3}, {"a": {"x": {"deeper": 3}}}):
        with pytest.raises(ValueError, match="two of the trees hold the leaf `a"):
            jsplit.merge({"a": {"x": 1}}, other)


def test_merge_takes_nested_dictionaries():
    with pytest.raises(
        ValueError, match="`merge` takes nested dictionaries, .* got a list"
    ):
        jsplit.merge([1])


def test_merge_copies_so_that_the_whole_outlives_a_step():
    tree = {"a": jnp.ones(2), "key": jax.random.key(0)}
    merged = jsplit.merge(tree)
    jax.tree.map(lambda x: x.delete(), tree)
    assert (merged["a"] == 1).all() and merged["key"] == jax.random.key(0)


def test_merge_gives_back_the_containers_of_the_whole():
    class Boxed(linen.Module):
        @linen.compact
        def __call__(self, x):
            init = linen.with_partitioning(linen.initializers.ones, (None, "model"))
            return linen.Dense(2, name="b")(
                jsplit.cut(linen.Dense(3, kernel_init=init, name="a")(x), "h")
            )

    parts = jsplit.split(Boxed(), row)
    params = [p.init(jax.random.key(0))[0] for p in parts.values()]
    like = Boxed().init(jax.random.key(0), row)["params"]
    merged = jsplit.merge(*params, like=like)
    assert jax.tree.structure(merged) == jax.tree.structure(like)
    assert_same(
        Boxed().apply({"params": merged}, row), Boxed().apply({"params": like}, row)
    )
    assert jsplit.merge({0: 1}, {1: 2}, like=[0, 0]) == [1, 2]
    for trees, one in (([{0: 1}], "`like`"), ([{0: 1, 1: 2, 2: 3}], "the trees")):
        with pytest.raises(ValueError, match=f"is in {one} alone"):
            jsplit.merge(*trees, like=[0, 0])


def test_join_takes_inputs_in_the_order_asked_for():
    parts = jsplit.split(vertical, row, jnp.ones((2, 3)), init=weights)
    assert jsplit.join(parts).inputs == ("y", "x")
    assert jsplit.join(parts, inputs=["x", "y"]).inputs == ("x", "y")
    with pytest.raises(
        ValueError,
        match=r"`inputs` must name all that the segments read, \['y', 'x'\], got \['x'\]",
    ):
        jsplit.join(parts, inputs=["x"])
    with pytest.raises(
        ValueError, match="`inputs` names `left`, which a segment produces"
    ):
        jsplit.join(parts, inputs=["x", "y", "left"])
    joined = jsplit.join(parts)
    with pytest.raises(ValueError, match=r"take the inputs \['y', 'x'\], got 1"):
        joined.init(jax.random.key(0), row)


def test_join_refuses_segments_that_do_not_follow_one_another():
    circle = {"u": jsplit.segment(lambda v: v), "v": jsplit.segment(lambda u: u)}
    with pytest.raises(
        ValueError, match="the segments `u`, `v` read each other's values in a circle"
    ):
        jsplit.join(circle)
    with pytest.raises(ValueError, match="segment `u` does not name its inputs"):
        jsplit.join({"u": jsplit.segment(lambda *x: x)})
    with pytest.raises(ValueError, match="`u` must be a segment, got a MLP"):
        jsplit.join({"u": MLP(rngs())})
    with pytest.raises(
        ValueError, match="`segments` must be a dictionary .* got a list"
    ):
        jsplit.join([])


def test_join_walks_any_segments():
    joined = jsplit.join(
        {
            "left": jsplit.segment(MLP(rngs()), inputs=["x"]),
            "sum": jsplit.segment(lambda left, x: left.sum() + x.sum()),
        }
    )
    params, state = joined.init(jax.random.key(0), row)
    output, _ = joined.apply(params, state, jax.random.key(0), row, train=False)
    net = MLP(rngs())
    net.eval()
    assert_same(output, net(row).sum() + row.sum())
