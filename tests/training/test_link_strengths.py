"""A strength of a link is set between steps, and compiles nothing anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit

SENT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
BATCH = {"x": SENT, "label": np.ones(4, np.float32)}


def scaled(factor, traces):
    def encode(value, key, own):
        traces.append(1)
        return own["factor"] * value

    return jsplit.stateless(
        encode, lambda payload, like: payload, strengths={"factor": factor}
    )


def topology():
    client = jsplit.segment(lambda x: 2 * x, inputs=["x"], name="h")
    server = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.ones(3), inputs=["h"], name="y"
    )
    squares = lambda y, label: (y - label) ** 2  # noqa: E731
    return jsplit.vanilla(client, server, loss=squares, public="x")


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_a_link_is_told_the_strength_that_is_set(make):
    traces = []
    link = scaled(jsplit.Strength("factor of h", 0.5), traces)
    trainer = make(topology(), optax.sgd(0.1), links={"h": (link, None)})
    state = trainer.init(0, BATCH)
    assert float(state.parties["client"].strengths["factor of h"]) == 0.5
    trainer.step(state, BATCH)
    trainer.predict(state, {"x": SENT})
    before = len(traces)
    for factor in (0.5, 3.0):
        other = jsplit.set_hyperparams(state, {"factor of h": factor})
        constant = make(
            topology(), optax.sgd(0.1), links={"h": (scaled(factor, []), None)}
        )
        plain = constant.init(0, BATCH)
        assert not plain.parties["client"].strengths
        got, wanted = trainer.step(other, BATCH), constant.step(plain, BATCH)
        assert got[1].loss == wanted[1].loss
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: (a == b).all(),
                got[0].parties["server"].params,
                wanted[0].parties["server"].params,
            )
        )
        outputs = trainer.predict(other, {"x": SENT})["y"]
        assert (outputs == constant.predict(plain, {"x": SENT})["y"]).all()
    assert len(traces) == before


def test_links_in_a_row_are_each_told_their_own():
    one, two = (scaled(jsplit.Strength(n, x), []) for n, x in (("a", 2.0), ("b", 3.0)))
    two = two._replace(
        encode=lambda state, value, key, own: (own["more"] * value, state),
        strengths={"more": jsplit.Strength("b", 3.0)},
    )
    link = jsplit.chain(one, two)
    trainer = jsplit.fused(topology(), optax.sgd(0.1), links={"h": (link, None)})
    state = trainer.init(0, BATCH)
    assert {n: float(x) for n, x in state.parties["client"].strengths.items()} == {
        "a": 2.0,
        "b": 3.0,
    }
    out = trainer.predict(state, {"x": SENT})["y"]
    np.testing.assert_allclose(out, 12 * SENT.sum(-1), rtol=1e-6)
