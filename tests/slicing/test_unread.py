"""Leaves of a cut that the rest of the model does not read are no part of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit

X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
LABEL = np.array([0, 1, 1, 0], "int32")
ENTROPY = optax.softmax_cross_entropy_with_integer_labels


class Recurrent(linen.Module):
    @linen.compact
    def __call__(self, x):
        # The outputs of all 5 steps are not used.
        carry, _ = linen.RNN(linen.LSTMCell(8), return_carry=True, name="encoder")(x)
        return linen.Dense(2)(carry[1])


def test_of_a_network_that_only_uses_its_carry_only_that_crosses():
    segments = jsplit.split(Recurrent(), X, cuts={"smashed": "encoder"})
    assert segments["smashed"].unread == ("0.0", "1")
    assert repr(segments["smashed"]) == "Segment(x -> smashed without 0.0, 1)"
    topology = jsplit.vanilla(*segments.values(), loss=ENTROPY)
    batch = {"x": X, "label": LABEL}
    cost = jsplit.cost(topology, batch, optimizer=optax.sgd(0.1))
    # The hidden state, 4 times 8 numbers, and its cotangent.
    assert [m.bytes for m in cost.messages] == [4 * 8 * 4] * 2


def weights(key, x):
    return {"a": jnp.ones((3, 3)) / 3, "b": jnp.ones((3, 2)) / 2}


def split(model, *, cuts=None):
    return jsplit.split(model, X[:, 0], init=weights, inputs=["x"], cuts=cuts)


def value_of(segments, name="h"):
    """What a segment of no cut before it gives."""
    params, state = segments[name].init(jax.random.key(0), X[:, 0])
    return segments[name].apply(params, state, None, X[:, 0], train=False)[0]


def test_what_only_an_unread_leaf_of_a_later_cut_needs_is_unread_as_well():
    def model(w, x):
        h = jsplit.cut({"used": x @ w["a"], "aside": 2 * (x @ w["a"])}, "h")
        z = jsplit.cut({"used": jnp.tanh(h["used"]), "aside": h["aside"] + 1}, "z")
        return z["used"] @ w["b"]

    segments = split(model)
    assert segments["h"].unread == segments["z"].unread == ("aside",)
    assert value_of(segments)["aside"] is None

    # Joined again, the segments are the model.
    joined = jsplit.join(segments)
    params, state = joined.init(jax.random.key(0), X[:, 0])
    output, _ = joined.apply(params, state, None, X[:, 0])
    np.testing.assert_array_equal(output, model(weights(None, None), X[:, 0]))


def test_an_unread_raw_input_does_not_leave_its_owner_and_is_no_error():
    def model(w, x):
        return jsplit.cut({"h": x @ w["a"], "raw": x}, "h")["h"] @ w["b"]

    assert split(model)["h"].unread == ("raw",)


def test_a_cut_of_which_nothing_is_read_still_separates_nothing():
    def model(w, x):
        jsplit.cut({"h": x @ w["a"], "z": jnp.tanh(x @ w["a"])}, "h")
        return x @ w["b"]

    with pytest.raises(ValueError, match="cut `h` separates nothing"):
        split(model)


class Modes(nnx.Module):
    """Reads `late` in inference alone, and keeps a mean of `seen` that no value reads."""

    def __init__(self, keeps):
        self.a, self.b = (nnx.Linear(*n, rngs=nnx.Rngs(0)) for n in ((3, 4), (4, 2)))
        self.keeps = keeps
        self.deterministic = False
        if keeps == "top":
            self.mean = nnx.BatchStat(jnp.zeros(4))

    def __call__(self, x):
        h = self.a(x)
        value = {"h": h, "late": jnp.sin(h), "seen": jnp.cos(h), "no": h + 1}
        h = jsplit.cut(value, "h")
        if self.keeps == "top":
            seen = (h["seen"] * self.b.kernel[0, 0]).mean(0)
            self.mean[...] = self.mean[...] + seen
        return self.b(h["h"] + (h["late"] if self.deterministic else 0.0))


@pytest.mark.parametrize(("keeps", "unread"), [("", "no seen"), ("top", "no")])
def test_what_one_mode_or_a_statistic_reads_crosses_in_both(keeps, unread):
    model = Modes(keeps)
    segments = jsplit.split(model, X[:, 0])
    assert segments["h"].unread == tuple(unread.split())


def test_the_update_of_a_statistic_of_the_sender_makes_nothing_cross():
    class Net(nnx.Module):
        def __init__(self):
            self.a, self.b = (
                nnx.Linear(*n, rngs=nnx.Rngs(0)) for n in ((3, 4), (4, 2))
            )
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            raw = self.a(x)
            h = jsplit.cut({"h": self.norm(raw), "raw": raw}, "h")
            return self.b(h["h"])

    assert jsplit.split(Net(), X[:, 0])["h"].unread == ("raw",)
