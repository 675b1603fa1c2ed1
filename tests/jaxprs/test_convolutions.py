"""A weight gradient summed part by part is the weight gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.jaxprs.convolutions import in_parts


def test_a_gradient_over_images_that_are_constants_is_summed_in_parts():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(130, 6, 6, 2)))

    def loss(weight):
        out = jax.lax.conv_general_dilated(
            images, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (out**2).mean()

    weight = jnp.ones((3, 3, 2, 4), images.dtype)
    found = jax.jit(in_parts(jax.grad(loss)))(weight)
    np.testing.assert_allclose(found, jax.grad(loss)(weight), rtol=1e-4)
    jaxpr = str(jax.make_jaxpr(in_parts(jax.grad(loss)))(weight))
    # forward, and the three parts of 130 examples
    assert jaxpr.count("= conv_general_dilated[") == 1 + 3
