"""A model's mode is told by a flag of any name, or what is not told is said."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit

x = jnp.linspace(-1, 1, 32).reshape(4, 8)
loss = optax.softmax_cross_entropy_with_integer_labels


class Net(nnx.Module):
    """Dropout that listens to a flag with a name of its own."""

    def __init__(self, rngs):
        self.a, self.d = nnx.Linear(8, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.b = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, is_train: bool = False):
        h = self.d(nnx.relu(self.a(x)), deterministic=not is_train)
        return self.b(jsplit.cut(h, "h"))


class Required(Net):
    def __call__(self, x, is_train: bool):
        return super().__call__(x, is_train)


class Inference(Net):
    def __call__(self, x, *, frozen=None, frozen_stats=True):
        return super().__call__(x, not frozen_stats)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, update_stats=False, causal=True):
        assert causal is True
        h = linen.Dense(8)(x)
        h = linen.BatchNorm(use_running_average=not update_stats)(h)
        return linen.Dense(3)(jsplit.cut(jnp.tanh(h), "h"))


def noisy(weights, x, key, enable_dropout=True):
    noise = jax.random.normal(key, x.shape) if enable_dropout else 0.0
    return jsplit.cut((x + noise) @ weights, "h") * 2


def start(key, x):
    return jnp.eye(8, 3)


def outputs(part, key=0):
    """What a segment gives in training, and in inference."""
    params, state = part.init(jax.random.key(0), x)
    run = functools.partial(part.apply, params, state, jax.random.key(key), x)
    return [run(train=train)[0] for train in (True, False)]


MODELS = {
    "nnx": (lambda: Net(nnx.Rngs(0)), {}, {"is_train": True}),
    "required": (lambda: Required(nnx.Rngs(0)), {}, {"is_train": np.True_}),
    "inference flag": (lambda: Inference(nnx.Rngs(0)), {}, {"frozen_stats": False}),
    "linen": (Linen, {}, {"update_stats": True, "causal": None}),
    "function": (lambda: noisy, {"init": start}, {"enable_dropout": True}),
}
each = pytest.mark.parametrize("make, options, flags", MODELS.values(), ids=MODELS)


@each
def test_a_flag_is_what_it_is_told_in_training_and_the_other_in_inference(
    make, options, flags
):
    part = jsplit.segment(make(), **options, flags=flags)
    train, infer = outputs(part)
    assert part.inputs == ("x",) and not jnp.allclose(train, infer)
    turned = {name: None if v is None else not v for name, v in flags.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that they may be turned
        other = outputs(jsplit.segment(make(), **options, flags=turned))
    assert jnp.array_equal(train, other[1]) and jnp.array_equal(infer, other[0])


@each
def test_every_constructor_that_takes_a_model_takes_its_flags(make, options, flags):
    told = {**options, "flags": flags}
    whole = outputs(jsplit.segment(make(), **told))
    joined = jsplit.join(jsplit.split(make(), x, **told))
    for ours, theirs in zip(outputs(joined), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert not jnp.array_equal(*outputs(jsplit.mixed_precision(make(), **told)))

    points = [point.name for point in jsplit.cut_points(make(), x, **told)]
    device, link = jsplit.Device(flops=1e9), jsplit.Network(bits=1e6)
    plan = jsplit.plan(make(), x, client=device, link=link, **told)
    assert "h" in points and {c.point.name for c in plan.choices} <= {*points}
    batch = {"x": x, "label": jnp.zeros(4, jnp.int32)}
    trainer = jsplit.fused(jsplit.whole(make(), loss=loss, **told), optax.sgd(0.1))
    state, info = trainer.step(trainer.init(0, batch), batch)
    assert not jnp.allclose(
        info.loss, trainer.evaluate(trainer.init(0, batch), batch).loss
    )


def test_a_known_flag_that_is_told_follows_the_user():
    def turned(x, train=False, deterministic=True):
        return x * train + 2.0 * deterministic

    train, infer = outputs(jsplit.segment(turned, flags={"train": False}))
    assert jnp.array_equal(train, 0 * x) and jnp.array_equal(infer, x + 2)
    train, infer = outputs(jsplit.segment(turned, flags={"train": None}))
    assert jnp.array_equal(train, 0 * x) and jnp.array_equal(infer, 0 * x + 2)


def test_a_boolean_that_is_told_nothing_is_warned_of_by_name_with_its_cure():
    with pytest.warns(UserWarning) as found:
        jsplit.segment(noisy, init=start)
        jsplit.segment(Linen())
    assert [str(w.message) for w in found] == [
        "the model takes `enable_dropout=True`, which is told nothing, so it is the same "
        'in training and in inference. If it says the mode, `flags={"enable_dropout": '
        'True}` (or False) says what it is in training; if not, `flags={"enable_dropout": '
        "None}` leaves it at its default.",
        "the model takes `update_stats=False`, `causal=True`, which is told nothing, so it "
        'is the same in training and in inference. If it says the mode, `flags={"update_'
        'stats": True}` (or False) says what it is in training; if not, `flags={"update_'
        'stats": None, "causal": None}` leaves it at its default.',
    ]
    # At the user's own line.
    assert {w.filename for w in found} == {__file__}


def annotated(x, a: "bool | None" = None):
    return x


@pytest.mark.parametrize(
    "model, options",
    [
        (Linen(), {"flags": {"update_stats": True, "causal": None}}),
        (Net(nnx.Rngs(0)), {"flags": {"is_train": None}}),
        (functools.partial(noisy, jnp.ones((8, 3)), enable_dropout=False), {}),
        (jnp.sum, {"inputs": ["a"]}),
        (lambda x, causal=True: x * causal, {"inputs": ["x", "causal"]}),
        (lambda x, train=False, deterministic=True, size=3, dtype=None: x, {}),
    ],
)
def test_what_is_told_set_or_a_library_s_is_not_warned_of(model, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = jsplit.segment(model, **options)
        if made.inputs == ("x",):
            made.init(jax.random.key(0), x)
    with pytest.warns(UserWarning, match="takes `a=None`"):
        jsplit.segment(annotated)


class Idle(Net):
    """Its dropout is off, whatever a flag says."""

    def __call__(self, x, train=False):
        return super().__call__(x, is_train=False)


class IdleLinen(linen.Module):
    idle: bool = True

    @linen.compact
    def __call__(self, x):
        h = linen.BatchNorm(use_running_average=self.idle)(linen.Dense(4)(x))
        return linen.Dropout(0.5, deterministic=self.idle)(jsplit.cut(h, "h")) * 2


def calls_a_module(params, x):
    return IdleLinen().apply(params, x)


@pytest.mark.parametrize(
    "model, options, layers",
    [
        (Idle(nnx.Rngs(0)), {}, "Dropout"),
        (Idle(nnx.Rngs(0)), {"flags": {"train": True}}, "Dropout"),
        (IdleLinen(), {}, "BatchNorm and Dropout"),
        (
            calls_a_module,
            {"init": lambda key, x: IdleLinen().init(key, x)},
            "BatchNorm and Dropout",
        ),
    ],
)
def test_a_model_whose_dropout_never_acts_is_warned_of_once_where_it_is_traced(
    model, options, layers
):
    message = f"the model has {layers}, which in training do the same as in inference:"
    part = jsplit.segment(model, **options)
    device, link = jsplit.Device(flops=1e9), jsplit.Network(bits=1e6)
    for traced in (
        lambda: [part.init(jax.random.key(i), x) for i in range(2)],
        lambda: jsplit.split(model, x, **options),
        lambda: jsplit.plan(model, x, client=device, link=link, **options),
        lambda: jsplit.whole(model, x, loss=loss, **options),
    ):
        with pytest.warns(UserWarning) as found:
            traced()
        assert len(found) == 1 and message in str(found[0].message)
        assert found[0].filename == __file__


class Frozen(nnx.Module):
    """A BatchNorm that is frozen, with a dropout that acts, or noise of its own."""

    def __init__(self, rngs, rate=0.5, noise=False):
        self.norm, self.noise = nnx.BatchNorm(8, rngs=rngs), noise
        self.drop, self.stream = nnx.Dropout(rate, rngs=rngs), rngs.noise.fork()

    def __call__(self, x, train):
        h = self.norm(x, use_running_average=True)
        if self.noise and train:
            h = h + jax.random.normal(self.stream(), h.shape)
        return self.drop(h, deterministic=not train)


@pytest.mark.parametrize(
    "model, options",
    [
        (Frozen(nnx.Rngs(0)), {}),
        (Frozen(nnx.Rngs(0), rate=0.0, noise=True), {}),
        (Frozen(nnx.Rngs(0), rate=0.0), {"flags": {}}),
        (IdleLinen(), {"flags": {}}),
        (IdleLinen(idle=False), {}),
        (nnx.Linear(8, 3, rngs=nnx.Rngs(0)), {}),
    ],
)
def test_a_model_that_differs_between_modes_or_is_meant_not_to_is_not_warned_of(
    model, options
):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jsplit.segment(model, **options).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "model, options, message",
    [
        (
            Net,
            {"eval": True},
            r"`flags` names 'eval', but the model takes \['x', 'is_tr",
        ),
        (Net, {"is_train": 1}, "what `is_train` is in training.* got a int"),
        (Net, {"is_train": "yes"}, "what `is_train` is in training.* got a str"),
        (Net, ["is_train"], "`flags` must be a dictionary by parameter.*got a list"),
        (Required, {"is_train": None}, "`is_train` is in training.*it has no default"),
        (
            Required,
            None,
            "takes the boolean `is_train`, which has no default and is told",
        ),
        (Required, {}, 'flags={"is_train": True}` \\(or False\\) says what it is'),
        (
            lambda _: lambda x, on, /: x,
            {"on": True},
            "`on`, which .* by position alone",
        ),
        (lambda _: lambda *args: args, {"args": True}, "`flags` names 'args', but the"),
        (
            lambda _: jsplit.segment(jnp.sin),
            {},
            "`flags` belongs to a module or a funct",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(model, options, message):
    with pytest.raises(ValueError, match=message):
        jsplit.segment(model(nnx.Rngs(0)), flags=options)


def test_a_boolean_in_the_place_of_an_input_is_refused_with_its_cure():
    def unsaid(x, is_train):
        return x

    for example in ((x,), (x, True), (x, np.True_)):
        with pytest.raises(ValueError, match="flags"):
            jsplit.split(unsaid, *example)
    with pytest.raises(ValueError, match="`x` is in `inputs` and in `flags`"):
        jsplit.segment(unsaid, inputs=["x"], flags={"x": True})


def test_a_flag_may_be_handed_on_by_what_collects_keywords():
    def collecting(x, **options):
        return x * options["is_train"]

    train, infer = outputs(jsplit.segment(collecting, flags={"is_train": True}))
    assert jnp.array_equal(train, x) and jnp.array_equal(infer, 0 * x)


class InPart(nnx.Module):
    """A pretrained part with BatchNorm, and a head with one of its own."""

    def __init__(self, rngs):
        self.part, self.norm = nnx.BatchNorm(8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.part(x) + 1)


def test_a_part_that_was_put_in_inference_mode_stays_in_it():
    model = InPart(nnx.Rngs(0))
    model.part.eval()
    part = jsplit.segment(model)
    params, state = part.init(jax.random.key(0), x)
    given = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)
    output, after = part.apply(params, state, jax.random.key(0), given)
    np.testing.assert_allclose(output, model(given), rtol=1e-5, atol=1e-5)
    for name, moves in (("part", False), ("norm", True)):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after[name], state[name])
        assert all(jax.tree.leaves(same)) != moves, name
    # One that is wholly in inference mode was used for that, and is trained here: said,
    # since one that is frozen looks the same.
    model.eval()
    with pytest.warns(UserWarning, match="put in training mode in steps"):
        whole = jsplit.segment(model)
    _, after = whole.apply(*whole.init(jax.random.key(0), x), jax.random.key(0), given)
    assert bool((after["part"]["mean"] != state["part"]["mean"]).any())


class OwnNorm(nnx.Module):
    """Listens to the word that BatchNorm does, and is in training mode."""

    def __init__(self):
        self.mean, self.use_running_average = nnx.BatchStat(jnp.zeros(8)), False

    def __call__(self, x):
        if not self.use_running_average:
            self.mean[...] = x.mean(0)
        return x - self.mean[...]


def test_a_norm_of_ones_own_that_trains_is_not_taken_for_a_frozen_one():
    """A warning is an error here."""
    part = jsplit.segment(OwnNorm())
    _, after = part.apply({}, {"mean": jnp.zeros(8)}, jax.random.key(0), x + 1)
    np.testing.assert_allclose(after["mean"], (x + 1).mean(0))


class Half(linen.Module):
    """BatchNorm is told its mode, dropout is not."""

    @linen.compact
    def __call__(self, x, train: bool = False, use_dropout=None):
        h = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(0.5, deterministic=not use_dropout)(h)


@pytest.mark.parametrize(
    "model", [Half(), nnx.bridge.ToNNX(IdleLinen(), rngs=nnx.Rngs(0)).lazy_init(x)]
)
def test_dropout_that_never_drops_is_warned_of_beside_what_trains_and_in_a_bridge(
    model,
):
    with pytest.warns(UserWarning, match="Dropout, which in training do the same"):
        jsplit.segment(model).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "model, flags",
    [
        (Net(nnx.Rngs(0)), {"is_train": False}),
        (Linen(), {"update_stats": False, "causal": None}),
    ],
)
def test_a_flag_that_is_told_the_wrong_way_round_is_warned_of(model, flags):
    """What it is in inference is its default here, and `flags` says what it is in training."""
    part = jsplit.segment(model, flags=flags)
    with pytest.warns(UserWarning, match="act in inference and not in training"):
        part.init(jax.random.key(0), x)
