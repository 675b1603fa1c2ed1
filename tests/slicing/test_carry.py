"""What goes around a cut is carried with it: the fewest bytes, and never a raw input."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit

x = jax.ShapeDtypeStruct((2, 4), "float32")
tokens = jax.ShapeDtypeStruct((2, 6), "int32")


def weights(key, *inputs):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"a": (4, 4), "b": (4, 4), "c": (4, 1), "e": (9, 4)}
    return {
        n: jax.random.normal(k, s)
        for k, (n, s) in zip(keys, shapes.items(), strict=True)
    }


def parts_of(model, *example, **options):
    return jsplit.split(model, *example, init=weights, around="carry", **options)


def same(model, parts, *values):
    """Whether segments compute and learn what the model does."""
    joined = jsplit.join(parts)
    params, state = joined.init(jax.random.key(0), *values)
    full = weights(None)

    def ours(params):
        return jnp.sin(joined.apply(params, state, None, *values)[0]).sum()

    def theirs(params):
        return jnp.sin(model(params, *values)).sum()

    (a, found), (b, wanted) = (
        jax.jit(jax.value_and_grad(ours))(params),
        jax.jit(jax.value_and_grad(theirs))(full),
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name, grad in jsplit.merge(*found.values()).items():
        np.testing.assert_allclose(grad, wanted[name], rtol=1e-4, atol=1e-5)


def skip(p, x):
    aside = jnp.tanh(x @ p["c"])
    h = jsplit.cut(jnp.tanh(x @ p["a"]), "h")
    return (h @ p["b"] * jnp.exp(aside)).sum(1)


def test_a_float_that_is_carried_brings_its_gradient_back():
    """`tanh(x @ c)`, one number, and not `x`, which is raw; its weight learns behind the cut."""
    parts = parts_of(skip, x)
    (carried,) = parts["h"].carried
    known = ("dot_general of x", (1,), np.dtype("float32"), 4, ("x",))
    assert carried == (*known, "dot_general(x, weights)")
    same(skip, parts, np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4))


def test_values_that_are_the_same_are_carried_once():
    """Written twice, and wider where they are made into a mask."""

    def model(p, tokens):
        mask = (tokens > 0)[:, :, None] & (tokens > 0)[:, None, :]
        h = jsplit.cut(p["e"][tokens] @ p["a"], "h")
        return (mask @ h).sum((1, 2))

    (carried,) = parts_of(model, tokens)["h"].carried
    assert (carried.shape, carried.bytes_per_example) == ((6,), 6)
    assert (carried.name, carried.how) == ("mask of tokens", "tokens > 0")


def test_what_depends_on_shapes_alone_is_not_carried():
    def model(p, tokens):
        h = jsplit.cut(p["e"][tokens], "h")
        back = jnp.tril(jnp.ones((tokens.shape[1],) * 2))
        return (back @ h * jnp.ones_like(tokens)[..., None]).sum((1, 2))

    parts = parts_of(model, tokens)
    assert not parts["h"].carried and parts["output"].inputs == ("h",)


def test_a_value_that_several_segments_read_goes_from_each_to_the_next():
    """What both sides compute of it, each computes; no segment reads two cuts back."""

    def model(p, tokens):
        real = (tokens > 0) * 1.0
        h = jsplit.cut(p["e"][tokens] * real[..., None], "first")
        h = jsplit.cut(jnp.tanh(h @ p["a"]) * real[..., None], "second")
        return (h @ p["b"] * real[..., None]).sum((1, 2)) / real.sum(1)

    parts = parts_of(model, tokens)
    assert [p.inputs for p in parts.values()] == [("tokens",), ("first",), ("second",)]
    assert [[c.dtype for c in p.carried] for p in parts.values()] == [
        [bool],
        [bool],
        [],
    ]
    same(model, parts, np.arange(12).reshape(2, 6) % 9)


def test_a_value_of_a_cut_under_another_name_is_not_carried():
    def model(p, x):
        h = jnp.tanh(x @ p["a"])
        return (jsplit.cut(h, "h") @ p["b"] + h).sum(1)

    parts = parts_of(model, x)
    assert not parts["h"].carried
    same(model, parts, np.ones((2, 4), "float32"))


def raw_around(p, x):
    return (jsplit.cut(jnp.tanh(x @ p["a"]), "h") + x[:, ::-1] * 2).sum(1)


def tied(p, x):
    return (jsplit.cut(jnp.tanh(x @ p["a"]), "h") @ p["a"]).sum(1)


def bert(p, tokens):
    """Its output layer is its embedding, and each block masks the padding."""
    real = tokens > 0
    h = jsplit.cut(p["e"][tokens] * real[..., None], "first")
    h = jsplit.cut(jnp.tanh(h @ p["a"]) * real[..., None], "second")
    return jnp.tanh(h @ p["b"]) @ p["e"].T


@pytest.mark.parametrize("batch", [1, 2, 4, 9])
def test_a_tied_weight_and_a_batch_as_long_as_other_axes_do_not_hinder(batch):
    """Four features and nine words: the leading axis of a table is no batch."""
    values = np.arange(6 * batch).reshape(batch, 6) % 9
    parts = parts_of(bert, values)
    assert [c.shape for c in parts["first"].carried] == [(6,)]
    assert not parts["second"].carried
    assert [t.dotted for t in parts["output"].tied] == ["e"]
    if batch == 4:
        same(bert, parts, values)


def relative(p, tokens):
    """As in T5: what each block adds is of one table, and of the padding."""
    back = jnp.arange(6)[:, None] - jnp.arange(6)
    bias = p["c"][:, 0][back % 4] + jnp.where(tokens > 0, 0.0, -9.0)[:, None]
    h = p["e"][tokens]
    h = jsplit.cut(jax.nn.softmax(h @ h.swapaxes(1, 2) + bias) @ h, "block")
    return (jax.nn.softmax(h @ h.swapaxes(1, 2) + bias) @ h @ p["a"]).sum(1)


def test_a_bias_that_all_blocks_read_is_carried_where_it_is_made_for_each_example():
    """So its table is not tied across the cut."""
    values = np.arange(18).reshape(3, 6) % 9
    parts = parts_of(relative, values)
    assert [c.shape for c in parts["block"].carried] == [(6, 6)]
    assert not parts["output"].tied
    same(relative, parts, values)


def masked(p, tokens):
    real = (tokens > 0)[..., None]
    h = jnp.tanh(p["e"][tokens] @ p["a"]) * real
    return (jsplit.cut(jnp.tanh(h @ p["b"]), "late") * real).mean(1) @ p["c"]


def test_a_place_that_something_goes_around_is_a_cut_point_with_its_bytes():
    found = jsplit.cut_points(masked, tokens, init=weights, around="carry")
    point = next(p for p in found if p.name == "late")
    assert point.shape == (6, 4) and point.bytes_per_example == 6 * 4 * 4 + 6
    assert point.carried == parts_of(masked, tokens)["late"].carried
    assert "late" not in found.why
    assert (
        "skip connection" in jsplit.cut_points(masked, tokens, init=weights).why["late"]
    )


def test_a_plan_counts_what_is_carried_as_messages_do():
    """A mask crosses, and no cotangent of it comes back."""
    values = np.arange(12).reshape(2, 6) % 9
    planned = jsplit.plan(
        masked,
        values,
        init=weights,
        around="carry",
        client=jsplit.Device(flops=1e6),
        link=jsplit.Network(bits=1e6),
    )
    choice = next(c for c in planned.choices if c.point.name == "late")

    def loss(output, label):
        return (output[:, 0] - label) ** 2

    trainer = jsplit.messages(
        jsplit.vanilla(*parts_of(masked, values).values(), loss=loss), optax.sgd(0.1)
    )
    batch = {"tokens": values, "label": np.ones(2, "float32")}
    _, info = trainer.step(trainer.init(0, batch), batch)
    assert choice.bytes == sum(m.bytes + m.frame for m in info.messages)


def test_what_nothing_closes_is_refused():
    """A value without batch axis."""
    message = "may be carried: .* has no batch axis. .* or name the input in `public`"
    with pytest.raises(ValueError, match=message):
        parts_of(lambda p, x: jsplit.cut(x @ p["a"], "h").sum(1) * x.sum(), x)


def test_a_raw_input_is_never_carried_unless_it_is_public():
    """Where the fewest bytes were the input itself, its sum is the most that crosses."""
    with pytest.raises(ValueError, match="the input `x` is read by `h` and `output`"):
        parts_of(
            lambda p, x: (jsplit.cut(x @ p["a"], "h") + x[:, ::-1] * 2) @ p["c"], x
        )
    parts = parts_of(raw_around, x, public=["x"])
    assert not parts["h"].carried and parts["output"].inputs == ("x", "h")


def test_around_is_one_of_two_words():
    with pytest.raises(ValueError, match='`around` must be "refuse" or "carry", got 3'):
        jsplit.split(skip, x, init=weights, around=3)


def attending(p, tokens):
    """A causal mask of padding: at a batch of one, JAX writes a broadcast less."""
    real, place = tokens > 0, jnp.arange(tokens.shape[1])
    h = jsplit.cut(p["e"][tokens], "first")
    near = real[:, None] & (place[:, None] >= place)
    h = jsplit.cut(jnp.where(near, h @ h.mT, -9.0) @ h @ p["a"], "second")
    return h @ p["b"] * real[..., None]


def test_what_is_carried_is_the_same_at_other_lengths_and_at_symbolic_ones():
    parts = parts_of(attending, tokens)
    assert [[c.shape for c in s.carried] for s in parts.values()] == [
        [(6,)],
        [(6,)],
        [],
    ]
    joined, whole = jsplit.join(parts), weights(None)
    own, state = joined.init(jax.random.key(0), tokens)

    @jax.jit
    def both(values):
        ours, _ = joined.apply(own, state, None, values, train=False)
        return ours, attending(whole, values)

    for shape in [(1, 9), (4, 4)]:
        values = np.arange(shape[0] * shape[1], dtype="int32").reshape(shape) % 7
        np.testing.assert_allclose(*both(values), rtol=1e-5)
    sizes = jax.export.symbolic_shape("batch, time")
    free = jax.ShapeDtypeStruct(sizes, "int32")
    (out, _) = jax.export.export(both)(free).out_avals
    assert out.shape == (*sizes, 4)


def flips(p, tokens):
    """Of six tokens the mask is less than what is made of it, of ten it is more."""
    real = tokens > 0
    made = jnp.stack([real.sum(1), real[:, ::2].sum(1)], 1).astype("float32")
    h = jsplit.cut(jnp.tanh(p["e"][tokens] @ p["a"]), "h")
    return (h @ p["b"]).sum(1)[:, :2] * jnp.sin(made)


def test_what_is_carried_at_another_length_is_what_is_carried_at_the_examples():
    parts = parts_of(flips, tokens)
    cut = next(iter(parts))
    ((name, shape, dtype, *_),) = parts[cut].carried
    assert shape[:1] == (6,) and dtype.kind == "b"
    values = np.arange(20).reshape(2, 10) % 9
    params, state = jsplit.join(parts).init(jax.random.key(0), values)
    value, _ = parts[cut].apply(params[cut], state[cut], None, values, train=False)
    assert value[name].shape == (2, 10, *shape[1:]) and value[name].dtype == dtype
    out, _ = parts["output"].apply(
        params["output"], state["output"], None, value, train=False
    )
    np.testing.assert_allclose(out, flips(weights(None), values), rtol=1e-4)


class Denoiser(nnx.Module):
    """A time as waves of many lengths, which every block reads after what learns of it."""

    def __init__(self, rngs):
        self.time, self.stem = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(6, 8, rngs=rngs)
        self.block, self.out = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x, t):
        waves = t[:, None] * jnp.exp(-jnp.arange(4) / 4)
        time = self.time(jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], -1))
        h = nnx.silu(self.stem(x) + time)
        return self.out(nnx.silu(self.block(h) + time))


def test_of_a_time_in_waves_is_carried_what_was_learned_and_not_the_time_scaled():
    """Scaled by wavelengths that the code computes, or in their sines and cosines, it would be
    the fewest bytes, and refused."""
    x, t = np.ones((2, 6), "float32"), np.arange(2, dtype="float32")
    net = Denoiser(nnx.Rngs(0))
    parts = jsplit.split(net, x, t, cuts={"h": "stem"}, around="carry")
    assert [c.name for c in parts["h"].carried] == ["dot_general of t"]  # of `time`
    topology = jsplit.vanilla(*parts.values(), loss=optax.squared_error)
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    trainer.init(0, {"x": x, "t": t, "label": x})  # which refuses what can be undone
    alone = jsplit.split(net, x, t, cuts={"h": "stem"})
    with pytest.raises(ValueError, match='reads `t`.* `around="carry"` of `split`'):
        jsplit.vanilla(*alone.values(), loss=optax.squared_error)


class Counted(nnx.Module):
    """How many were above zero is counted behind the cut, and read anew or (`late`) as it was."""

    def __init__(self, late):
        self.stem, self.head = (nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in (0, 1))
        self.late, self.seen = late, nnx.BatchStat(jnp.ones(4))

    def __call__(self, x):
        above = x > 0
        before, after = self.seen[...], self.seen[...] + above.sum(0)
        self.seen[...] = after
        return self.head(self.stem(x)) * (before if self.late else after)


@pytest.mark.parametrize("late", [False, True])
def test_a_statistic_behind_the_cut_is_updated_of_what_is_carried(late):
    """As the cache of a padding mask, of a model that decodes."""
    value = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)
    parts = jsplit.split(Counted(late), value, cuts={"h": "stem"}, around="carry")
    (carried,) = parts["h"].carried
    assert carried.name == "mask of x"
    joined = jsplit.join(parts)
    params, state = joined.init(jax.random.key(0), value)
    net = Counted(late)
    for _ in "ab":
        found, state = joined.apply(params, state, None, value)
        np.testing.assert_allclose(found, net(value), rtol=1e-6)
    np.testing.assert_array_equal(jax.tree.leaves(state)[0], net.seen[...])
