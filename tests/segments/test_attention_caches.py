"""What `nnx.view` makes of Flax's attention decodes: its caches are made where none are."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsplit


class Attend(nnx.Module):
    def __init__(self):
        self.layer = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))

    def __call__(self, h):
        mask = None if self.layer.decode else nnx.make_causal_mask(h[..., 0])
        return self.layer(h, mask=mask)


def test_a_view_that_decodes_gives_what_the_module_gives_at_once():
    """As Flax documents it; and a module is of every size, and stays as it was."""
    module = Attend()
    h = jax.random.normal(jax.random.key(1), (2, 3, 4))
    view = nnx.view(module, decode=True, batch_size=2, max_length=3)
    for decoding in (
        lambda b, n: nnx.view(module, decode=True, batch_size=b, max_length=n),
        view,
    ):
        segment = jsplit.with_cache(jsplit.segment(module), decoding)
        assert segment.cache is not None
        params, state = segment.init(jax.random.key(0), h)
        for size in (2, 1):
            held = segment.cache.init(params, state, abstract(h[:size]))
            first, held = segment.cache.apply(params, state, held, h[:size, :2])
            last, _ = segment.cache.apply(params, state, held, h[:size, 2:])
            got = jnp.concatenate([first, last], 1)
            np.testing.assert_allclose(got, module(h[:size]), atol=1e-6)
    assert view.layer.cached_key is None and not module.layer.decode


def abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def test_an_empty_cache_is_compiled_once_for_all_sessions_of_one_size():
    traced = []

    def init(key, h):
        traced.append(h.shape)
        return {}, {"cache": {"count": jnp.zeros(h.shape[0])}}

    plain = jsplit.segment(lambda h: h, inputs="h", name="y")
    segment = jsplit.with_cache(plain, replace(plain, init=init))
    assert segment.cache is not None
    one, two, other = (
        segment.cache.init({}, {}, jax.ShapeDtypeStruct((size, 5, 4), "float32"))
        for size in (2, 2, 3)
    )
    assert traced == [(2, 1, 4), (3, 1, 4)]
    # What one session uses up is not the other's.
    jax.tree.leaves(one)[0].delete()
    assert jax.tree.leaves(two)[0].tolist() == [0, 0]
    assert jax.tree.leaves(other)[0].shape == (3,)
