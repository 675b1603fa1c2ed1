"""Slices at other sizes than the example's: the whole model's, or a refusal by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from tests.training.common import both, close

RNG = np.random.default_rng(0)
MOST = 12


def tokens(*shape):
    return RNG.integers(0, 16, shape).astype(np.int32)


class Attending(nnx.Module):
    """A language model with a table of positions, attention and a mask of padding."""

    def __init__(self, rngs):
        self.table = nnx.Embed(16, 4, rngs=rngs)
        self.places = nnx.Param(jax.random.normal(rngs.params(), (MOST, 4)))
        self.low, self.high = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))
        self.head = nnx.Linear(4, 16, rngs=rngs)

    def __call__(self, tokens, mask):
        h = self.table(tokens) + self.places[...][: tokens.shape[1]]
        h = jsplit.cut(nnx.tanh(self.low(h)), "smashed")
        score = jnp.where(mask[:, None] > 0, h @ h.swapaxes(1, 2), -1e9)
        return self.head(nnx.softmax(score) @ self.high(h))


def entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(-1)


@pytest.fixture(scope="module")
def attending():
    model = Attending(nnx.Rngs(0))
    example = tokens(2, 8), np.ones((2, 8), np.float32)
    return model, jsplit.split(model, *example, around="carry", public=["mask"])


def at(length, rows=3):
    mask = (np.arange(length) < np.array([[length], [2], [3]])[:rows]).astype("f")
    return {"tokens": tokens(rows, length), "mask": mask, "label": tokens(rows, length)}


@both
def test_a_split_trains_and_predicts_as_the_whole_at_every_length(
    attending, interpreter
):
    model, parts = attending
    topology = jsplit.vanilla(*parts.values(), loss=entropy, public=["mask"])
    trainer = getattr(jsplit, interpreter)(topology, optax.sgd(0.1))
    graph, params = nnx.split(model, nnx.Param)

    def whole(params, batch):
        return nnx.merge(graph, params)(batch["tokens"], batch["mask"])

    def loss(params, batch):
        return entropy(whole(params, batch), batch["label"]).mean()

    # The first state is made of a batch of another length than the example's, too.
    state = trainer.init(0, at(5))
    gradient_of = jax.jit(jax.value_and_grad(loss))
    for length in (5, MOST):
        batch = at(length)
        value, gradient = gradient_of(params, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        state, info = trainer.step(state, batch)
        close(info.loss, value, 1e-5)
    close(jsplit.variables(state)[0], nnx.to_pure_dict(params), 1e-5)
    fields = {n: x for n, x in at(1).items() if n != "label"}
    found = trainer.predict(state, fields)["output"]
    close(found, jax.jit(whole)(params, fields), 1e-5)


def test_a_length_at_which_the_model_does_not_run_is_refused_by_name(attending):
    parts = attending[1]
    bottom = parts["smashed"]
    long = tokens(2, MOST + 1)
    with pytest.raises(
        ValueError,
        match=r"expects `tokens` as int32\[2,8\], got int32\[2,13\]; .*does not run",
    ):
        bottom.apply(*bottom.init(None), None, long, train=False)


def strided(x, head):
    """Half as many time steps: several lengths give the same cut."""
    h = jsplit.cut(jnp.tanh(jnp.pad(x, ((0, 0), (0, 1), (0, 0)))[:, 1::2]), "smashed")
    return head(x, h)


def run(parts, x):
    h = x
    for part in parts.values():
        h, _ = part.apply(*part.init(None), None, h, train=False)
    return h


CASES = {
    "strides": (lambda x: strided(x, lambda x, h: h * 2), (2, 8, 3)),
    "pooled": (lambda x: jnp.exp(jsplit.cut(jnp.sin(x).sum(1), "smashed")), (2, 8, 3)),
    # Two axes, each free by itself, of which one is the size of a third.
    "image": (
        lambda x: jnp.sin(jsplit.cut(jnp.cos(x)[:, ::-1] * x, "smashed")).sum((1, 2)),
        (2, 6, 6, 6),
    ),
    "patches": (
        lambda x: jnp.sin(
            jsplit.cut(jnp.cos(x).reshape(len(x), -1, 4).sum(-1), "smashed")
        ),
        (2, 8),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_segment_that_sees_only_the_cut_finds_the_sizes_that_give_it(name):
    model, shape = CASES[name]
    parts = jsplit.split(model, np.zeros(shape, np.float32))
    for sizes in [(4, 3, 5), (12, 10, 3)]:
        given = shape[:1] + tuple(
            n if i == 0 or len(shape) > 3 else size
            for i, (n, size) in enumerate(zip(sizes, shape[1:], strict=False))
        )
        x = RNG.normal(size=given).astype("f")
        np.testing.assert_allclose(run(parts, x), model(x), rtol=1e-6)


def test_what_a_segment_cannot_tell_and_depends_on_is_refused():
    def mean(x):
        return jsplit.cut(jnp.sin(x).sum(1), "smashed") / x.shape[1]

    def odd(x):
        return strided(x, lambda x, h: h / x.shape[1])

    for model in (mean, odd):
        parts = jsplit.split(model, np.zeros((2, 8, 3), np.float32))
        with pytest.raises(
            ValueError, match="`output` depends on the sizes of `x` float32.2,7,3."
        ):
            run(parts, np.ones((2, 7, 3), np.float32))


def test_a_model_that_divides_otherwise_at_a_length_is_refused():
    def short(x):
        # Of short sequences it sends the raw input.
        h = jnp.sin(x) if x.shape[1] > 4 else 2 * x
        return jnp.cos(jsplit.cut(h, "smashed"))

    parts = jsplit.split(short, np.zeros((2, 8), np.float32))
    assert run(parts, np.ones((2, 5), np.float32)).shape == (2, 5)
    with pytest.raises(ValueError, match="cut `smashed` holds the raw input `x`"):
        run(parts, np.ones((2, 4), np.float32))


def test_sizes_of_a_cut_that_come_from_several_axes_ask_for_an_example():
    def model(x):
        return jnp.cos(jsplit.cut(jnp.sin(x).reshape(len(x), -1), "smashed"))

    top = jsplit.split(model, np.zeros((2, 3, 4), np.float32))["output"]
    with pytest.raises(ValueError, match=r"`smashed` as .*\[2,12\], got .* `example`"):
        top.apply({}, {}, None, np.ones((2, 35), np.float32), train=False)


def test_an_export_leaves_a_named_axis_free(attending):
    model, parts = attending
    topology = jsplit.vanilla(*parts.values(), loss=entropy, public=["mask"])
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    state = trainer.init(0, at(8))
    fields = {n: at(8)[n] for n in ("tokens", "mask")}
    free = {"tokens": ["time"], "mask": ["time"]}
    # A table of positions has an end, and a symbol has none.
    with pytest.raises(ValueError, match="a free batch size and time"):
        jsplit.export(topology, state, fields, free=free)
    made = jsplit.export(
        topology, state, fields, free=free, constraints=[f"time <= {MOST}"]
    )
    other = at(5)
    h = made["client"]["smashed"].call(other["tokens"])
    public = made["client"]["public_mask"].call(other["mask"])
    expected = jax.jit(model)(other["tokens"], other["mask"])
    close(made["server"]["output"].call(public, h), expected, 1e-5)
    with pytest.raises(ValueError, match="`constraints` of batch, time"):
        jsplit.export(topology, state, fields, free=free, constraints=["time <= x y"])
    for wrong, why in (
        ({"label": ["time"]}, "which no segment reads"),
        ({"tokens": ["time", "width"]}, "names 2 axes .* has 1"),
        ({"tokens": "time"}, "must be a list"),
        ({"tokens": ["batch"]}, "a word other than"),
    ):
        with pytest.raises(ValueError, match=why):
            jsplit.export(topology, state, fields, free=wrong)

    model = nnx.Sequential(*[nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in (0, 1)])
    x = RNG.normal(size=(2, 8, 4)).astype("f")
    parts = jsplit.split(model, x, cuts={"smashed": "layers.0"}, inputs=["x"])
    topology = jsplit.vanilla(*parts.values(), loss=lambda o, y: o.mean((1, 2)))
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, {"x": x, "label": x})
    made = jsplit.export(topology, state, {"x": x}, free={"x": ["time"]})
    x = RNG.normal(size=(3, 5, 4)).astype("f")
    h = made["client"]["smashed"].call(x)
    np.testing.assert_allclose(
        made["server"]["output"].call(h), model(x), rtol=1e-5, atol=1e-6
    )
