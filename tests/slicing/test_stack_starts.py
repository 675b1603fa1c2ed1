"""A party that has a few layers of a stack draws these alone, as the whole model draws them."""

import jax
import numpy as np
import pytest
from flax import linen
from jax import numpy as jnp

import jsplit

LAYERS, WIDTH = 32, 16
x = jnp.ones((2, 4))


class Layer(linen.Module):
    @linen.compact
    def __call__(self, h, _):
        return h + linen.tanh(linen.Dense(WIDTH)(h)), None


class Scanned(linen.Module):
    a_key_each: bool = True

    @linen.compact
    def __call__(self, x):
        scan = linen.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": self.a_key_each},
            length=LAYERS,
        )
        return scan(name="layers")(linen.Dense(WIDTH)(x), None)[0]


def of_a_key_each(key, x):
    keys = jax.random.split(key, LAYERS)
    draw = jax.vmap(lambda key: jax.random.normal(key, (WIDTH, WIDTH)) / 4)
    return {"in": jnp.ones((4, WIDTH)), "layers": draw(keys)}


def of_those_before(key, x):
    """Each layer is made of the one before it, so no layer can be drawn alone."""

    def turn(w, key):
        w = w + jax.random.normal(key, w.shape) / 9
        return w, w

    first = jnp.eye(WIDTH)
    stack = jax.lax.scan(turn, first, jax.random.split(key, LAYERS))[1]
    return {"in": jnp.ones((4, WIDTH)), "layers": stack}


def function(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p["in"], p["layers"])[
        0
    ]


@pytest.mark.parametrize(
    "model, init, alone",
    [
        (Scanned(), None, True),
        (Scanned(a_key_each=False), None, True),
        (function, of_a_key_each, True),
        (function, of_those_before, False),
    ],
    ids=["linen.scan", "all of one key", "vmap", "each of the one before"],
)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_some_layers_are_drawn_alone_and_as_the_whole_model_draws_them(
    model, init, alone, impl
):
    low, high = jsplit.split(model, x, init=init, cuts=["layers[2]"]).values()
    key = jax.random.key(3, impl=impl)
    own = [jax.jit(part.init)(key, x)[0] for part in (low, high)]
    wanted, _ = jax.jit(jsplit.segment(model, init=init).init)(key, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        jsplit.merge(*own),
        wanted,
    )
    if alone and impl == "threefry2x32":
        begin = jax.jit(lambda key: low.init(key, x)[0])
        needs = begin.lower(key).compile().memory_analysis()
        assert needs is not None
        whole = LAYERS * WIDTH * WIDTH * 4
        assert needs.temp_size_in_bytes < whole / 2
