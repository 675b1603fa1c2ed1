"""The zoo: models of every kind that is divided, each as small as its idea allows."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name

import jsplit


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
    """A penalty sown anew, a counter, and an average that needs the counter; no output
    reads any.
    """

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
    """What a layer does depends on its exact type; the blocks share one `nnx.jit`,
    which has run before.
    """

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
        h = checkpoint_name(jnp.sin(x @ params["a"]), "kept")

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
    """A dataclass goes in, crosses and comes out; one of its arrays is cut value and
    output at once.
    """
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
