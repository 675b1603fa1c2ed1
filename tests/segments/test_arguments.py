"""Arguments of a model that are no batch are told, or what to tell is said."""

from functools import partial
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit

x = jnp.linspace(-1, 1, 32).reshape(4, 8)
key = jax.random.key(5)
loss = optax.softmax_cross_entropy_with_integer_labels
batch = {"x": x, "label": jnp.arange(4) % 3}


def folded(name):
    return jax.random.fold_in(key, crc32(name.encode()))


def run(part, *inputs, train=True, key=key):
    params, state = part.init(jax.random.key(0), *inputs)
    return part.apply(params, state, key, *inputs, train=train)[0]


def noise(x, z_rng, other=None, cache=()):
    """Two keys, and a container into which it writes what it computes."""
    if isinstance(cache, dict):
        assert not cache
        cache["seen"] = x
    first = jax.random.normal(z_rng, x.shape)
    return first, 0 if other is None else jax.random.normal(other, x.shape)


class Noisy(nnx.Module):
    """Streams of its own, an argument `rngs`, and a key."""

    def __init__(self, rngs):
        self.own = rngs

    def __call__(self, x, z_rng, rngs: nnx.Rngs | None = None):
        assert rngs is not None
        return self.own.noise(), rngs.noise(), z_rng


class Net(nnx.Module):
    """Everything at once: an option, a key, streams and a cache, and a layer of each kind."""

    def __init__(self, rngs):
        self.a, self.norm = nnx.Linear(8, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.b = nnx.Dropout(0.5), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, z_rng, scale, cache, rngs):
        assert cache is None
        h = self.drop(nnx.relu(self.norm(self.a(x))), rngs=rngs)
        h = jsplit.cut(h + scale * jax.random.normal(z_rng, h.shape), "h")
        return self.b(h)


TOLD = {"key": "z_rng", "fixed": {"scale": 0.1, "cache": None}}


def test_the_first_key_is_that_of_the_step_and_others_are_folded_from_their_names():
    part = jsplit.segment(noise, key=["z_rng", "other"])
    assert part.inputs == ("x",)
    first, second = run(part, x)
    assert jnp.array_equal(first, jax.random.normal(key, x.shape))
    assert jnp.array_equal(second, jax.random.normal(folded("other"), x.shape))


def test_beside_streams_of_its_own_a_module_is_given_keys_apart_from_theirs():
    module, reseeded = Noisy(nnx.Rngs(noise=1)), nnx.Rngs(noise=1)
    nnx.reseed(reseeded, noise=key)
    own, streams, z_rng = run(jsplit.segment(module, key="z_rng"), x)
    assert own == reseeded.noise()
    assert streams == nnx.Rngs(folded("rngs")).noise()
    assert z_rng == folded("z_rng")


def test_a_layer_of_flax_with_streams_of_its_own_keeps_them_unless_told():
    own, bare = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)
    reseeded = nnx.clone(own)
    nnx.reseed(reseeded, default=key)
    assert jnp.array_equal(run(jsplit.segment(own), x), reseeded(x))
    given = bare(x, rngs=nnx.Rngs(key))
    assert jnp.array_equal(run(jsplit.segment(bare), x), given)
    told = run(jsplit.segment(own, key="rngs"), x)
    assert jnp.array_equal(told, bare(x, rngs=nnx.Rngs(folded("rngs"))))


def test_a_constant_is_given_anew_at_every_call_and_in_both_modes():
    part = jsplit.segment(noise, key="z_rng", fixed={"cache": {}})
    for train in (True, False):
        run(
            part, x, train=train
        )  # a call that found what the last one wrote would fail


def test_every_constructor_that_takes_a_model_takes_its_keys_and_constants():
    model = Net(nnx.Rngs(0))
    ours = run(jsplit.join(jsplit.split(model, x, **TOLD)), x)
    plain = nnx.clone(model)(x, key, 0.1, None, nnx.Rngs(key))
    assert not np.allclose(ours, plain)  # two that draw do not get the same key
    plain = nnx.clone(model)(x, folded("z_rng"), 0.1, None, nnx.Rngs(key))
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(jsplit.segment(model, **TOLD), x), plain, rtol=1e-6)

    assert run(jsplit.mixed_precision(model, **TOLD), x).dtype == jnp.bfloat16
    names = [point.name for point in jsplit.cut_points(model, batch, **TOLD)]
    device, link = jsplit.Device(flops=1e9), jsplit.Network(bits=1e6)
    plan = jsplit.plan(model, batch, client=device, link=link, **TOLD)
    assert "h" in names and {c.point.name for c in plan.choices} <= {*names}
    trainer = jsplit.fused(
        jsplit.whole(model, batch, loss=loss, **TOLD), optax.sgd(0.1)
    )
    state, info = trainer.step(trainer.init(0, batch), batch)
    assert trainer.step(state, batch)[1].loss != info.loss


def optional(input_ids, mask=None, pixels=None, *, scale=1.0):
    found = {"mask": mask, "pixels": pixels}
    assert scale == 1.0
    return {n: jnp.sum(v, 1) for n, v in found.items() if v is not None}, input_ids * 2


@pytest.mark.parametrize(
    "example, told, inputs, given",
    [
        ((x,), {}, ("input_ids",), set()),
        ((x, None, x), {}, ("input_ids", "pixels"), {"pixels"}),
        (
            ({"pixels": x, "input_ids": x, "label": x},),
            {},
            ("input_ids", "pixels"),
            {"pixels"},
        ),
        (({"mask": None, "input_ids": x},), {}, ("input_ids",), set()),
        (
            (x, x),
            {"inputs": ["pixels", "input_ids"]},
            ("pixels", "input_ids"),
            {"pixels"},
        ),
        ((x, None, x), {"inputs": ["a", "b", "c"]}, ("a", "c"), {"pixels"}),
    ],
)
def test_an_input_with_a_default_keeps_its_name_and_none_is_one_that_is_not_given(
    example, told, inputs, given
):
    (part,) = jsplit.split(optional, *example, cuts=[], **told).values()
    assert {*(part.inputs or ())} == {*inputs}
    found, _ = run(part, *[x] * len(inputs))
    assert {*found} == given


def test_a_pytree_of_lists_and_dictionaries_is_one_input():
    def model(graph, weight):
        return jsplit.cut(jnp.sin(graph["nodes"][0]), "h") + weight[:, None]

    graph = {"nodes": [x, x[:, :2]], "weight": None}
    parts = jsplit.split(model, graph, x[:, 0])
    assert parts["h"].inputs == ("graph",)
    assert {*(parts["output"].inputs or ())} == {"h", "weight"}
    joined = jsplit.join(parts, inputs=["graph", "weight"])
    assert jnp.array_equal(run(joined, graph, x[:, 0]), jnp.sin(x) + x[:, :1])


def streams_of(x, streams: nnx.Rngs):
    return x


def by_position(x, k, /):
    return x


class Lacking(linen.Module):
    @linen.compact
    def __call__(self, x, method):
        return x


def collecting(*inputs):
    return inputs[0]


net = Net(nnx.Rngs(0))
REFUSED = {
    "streams": (
        streams_of,
        (x, nnx.Rngs(0)),
        {},
        "`streams` is random str.*leave it out: t",
    ),
    "a key": (noise, (x, key), {}, '`z_rng` is a key and no input.*key="z_rng"'),
    "a raw key": (
        noise,
        (x, jax.random.PRNGKey(0)),
        {},
        "`z_rng` is a key and no input",
    ),
    "nothing": (
        noise,
        (x,),
        {},
        'without `z_rng`: .*`key="z_rng"`, a constant by `fixed=',
    ),
    "too much": (jnp.sin, (x, x), {}, r"takes `inputs` \['x'\], but the example has 2"),
    "a number": (
        optional,
        (x, 3),
        {},
        '`mask` must hold numbers, got int.*`fixed={"mask"',
    ),
    "a word": (
        optional,
        (x, "no"),
        {},
        '`mask` must hold num.*got str.*`fixed={"mask"',
    ),
    "a boolean": (
        optional,
        (x, True),
        {},
        '`flags={"mask": True}.*`fixed={"mask": ...}`',
    ),
    "none of any": (
        optional,
        (None,),
        {},
        r"none of the model's inputs \['input_ids'\]",
    ),
    "None unnamed": (collecting, (x, None), {}, "parameters have no names"),
    "another key": (
        noise,
        (x,),
        {"key": "q"},
        r"`key` names 'q', but the model takes \['x'",
    ),
    "another constant": (
        noise,
        (x,),
        {"fixed": {"q": 1}},
        "`fixed` names 'q', but the mo",
    ),
    "position": (by_position, (x,), {"key": "k"}, "`k`, which .* by position alone"),
    "no dictionary": (noise, (x,), {"fixed": ["x"]}, "`fixed` must be a dictionary"),
    "twice": (
        noise,
        (x,),
        {"key": "x", "fixed": {"x": 1}},
        "`x` is in `fixed` and in `key`",
    ),
    "a key that stays": (
        noise,
        (x,),
        {"fixed": {"z_rng": key}},
        '`z_rng` a key.*key="z_r',
    ),
    "streams that stay": (
        net,
        (x,),
        {"fixed": {"rngs": nnx.Rngs(0)}},
        "`rngs` a key, which",
    ),
    "a module": (
        noise,
        (x,),
        {"fixed": {"cache": net}},
        "`cache` a Net, whose parameters",
    ),
    "of linen": (
        Lacking(),
        (x,),
        {"fixed": {"method": 1}},
        "`method`, which by keyword is",
    ),
    "a segment": (
        jsplit.segment(jnp.sin),
        (x,),
        {"key": "k"},
        "`key` belongs to a module",
    ),
    "a flag": (
        noise,
        (x,),
        {"flags": {"cache": 3}},
        "`cache` is in training.*`fixed` gives",
    ),
}


@pytest.mark.parametrize("model, example, told, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_input_is_refused_with_the_argument_to_use(
    model, example, told, message
):
    for make in (jsplit.split, jsplit.cut_points, partial(jsplit.whole, loss=loss)):
        with pytest.raises(ValueError, match=message):
            make(model, *example, **told)


class Normed(nnx.Module):
    def __init__(self, rngs, **options):
        self.a, self.b = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs, **options)

    def __call__(self, x):
        return self.b(jsplit.cut(nnx.relu(self.norm(self.a(x))), "h"))


class LinenNormed(linen.Module):
    axis: str | None = None

    @linen.compact
    def __call__(self, x, use_running_average):
        norm = linen.BatchNorm(use_running_average, axis_name=self.axis)
        return linen.Dense(3)(jsplit.cut(norm(linen.Dense(8)(x)), "h"))


@pytest.mark.parametrize("make", [lambda: Normed(nnx.Rngs(0)), LinenNormed])
def test_frozen_statistics_stay_and_what_they_normalise_is_trained(make):
    for frozen in (False, True):
        told = {"fixed": {"use_running_average": True}} if frozen else {}
        parts = jsplit.split(make(), x, **told)
        trainer = jsplit.fused(
            jsplit.vanilla(*parts.values(), loss=loss), optax.sgd(0.1)
        )
        before = trainer.init(0, batch)
        after, info = trainer.step(before, batch)
        (p, s), (q, t) = jsplit.variables(before), jsplit.variables(after)
        stayed = jax.tree.map(lambda a, b: bool((a == b).all()), s, t)
        assert {*jax.tree.leaves(stayed)} == {frozen}
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), p, q)
        assert all(jax.tree.leaves(moved)) or not frozen
        assert (info.loss == trainer.evaluate(before, batch).loss) == frozen


def test_statistics_that_look_frozen_and_are_trained_are_warned_of():
    model = Normed(nnx.Rngs(0), use_running_average=True)
    with pytest.warns(UserWarning, match='`fixed={"use_running_average": True}` keeps'):
        jsplit.segment(model)
    jsplit.segment(model, fixed={"use_running_average": True})
    model.train()
    jsplit.segment(model)


@pytest.mark.parametrize("make", [partial(Normed, nnx.Rngs(0), axis_name="i"), None])
def test_an_axis_that_is_not_mapped_over_is_named_and_one_that_is_works(make):
    model = LinenNormed("i") if make is None else make()
    for take in (jsplit.split, jsplit.cut_points, partial(jsplit.whole, loss=loss)):
        with pytest.raises(
            ValueError, match="over the axis `i` .*`axis_name=None` comp"
        ):
            take(model, x)
    plain = jsplit.segment(LinenNormed() if make is None else Normed(nnx.Rngs(0)))
    params, state = plain.init(jax.random.key(0), x)
    mapped = jax.vmap(
        lambda row: jsplit.segment(model).apply(params, state, key, row)[0],
        axis_name="i",
    )
    whole, _ = plain.apply(params, state, key, x)
    np.testing.assert_allclose(mapped(x[:, None])[:, 0], whole, rtol=1e-5, atol=1e-6)


def test_an_axis_over_which_the_model_itself_maps_can_be_cut():
    def model(weight, x):
        def one(row):
            return row - jax.lax.pmean(row, "i")

        return jsplit.cut(jax.vmap(one, axis_name="i")(x), "h") @ weight

    parts = jsplit.split(model, x, init=lambda key, x: jnp.ones((8, 2)))
    ours = run(jsplit.join(parts), x)
    np.testing.assert_allclose(ours, (x - x.mean(0)) @ jnp.ones((8, 2)), atol=1e-5)
