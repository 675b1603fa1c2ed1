"""Whatever form a convolution has, it computes what XLA's own does; and no slow one is left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax

import jsplit
from jsplit.jaxprs import compiling, conv_choice
from jsplit.jaxprs.rewriting import replaced, run_replaced

NUMBERS = {
    1: ("NHC", "HIO", "NHC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}
CHANNELS_FIRST = {
    1: ("NCH", "OIH", "NCH"),
    2: ("NCHW", "OIHW", "NCHW"),
    3: ("NCDHW", "OIDHW", "NCDHW"),
}


@st.composite
def convolutions(draw):
    """A convolution of small arrays: the function, and the shapes of its operands."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    features = 4 if groups > 1 else draw(st.integers(1, 6))
    space = draw(st.tuples(*[st.integers(3, 7)] * rank))
    window = draw(st.tuples(*[st.integers(1, 3)] * rank))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * rank))
    apart = draw(st.tuples(*[st.integers(1, 2)] * rank))
    strides = draw(st.tuples(*[st.integers(1, 3)] * rank))
    reach = [draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in range(rank)]
    # Padding that makes the input at least as large as the window.
    padding = [(lo + 2, hi + 2) for lo, hi in reach]
    first = draw(st.booleans())
    batch = draw(st.sampled_from([1, 3, 9]))
    outputs = 4 * draw(st.integers(1, 2))
    x, w = (batch, *space, features), (*window, features // groups, outputs)
    if first:
        x, w = (batch, features, *space), (outputs, features // groups, *window)
    how = {
        "window_strides": strides,
        "padding": padding,
        "lhs_dilation": apart,
        "rhs_dilation": dilation,
        "dimension_numbers": (CHANNELS_FIRST if first else NUMBERS)[rank],
        "feature_group_count": groups,
    }
    return partial(lax.conv_general_dilated, **how), x, w


def random(shape, seed, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def value_and_gradients(function, x, w):
    """The result, and both gradients of a sum with fixed weights of it."""
    out, pull = jax.vjp(function, x, w)
    return out, *pull(random(out.shape, 3, out.dtype))


def gap(found, expected):
    """The largest difference, relative to the norm of what it is a part of."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = max(worst, np.linalg.norm(x - y) / (np.linalg.norm(y) + 1e-300))
    return worst


def equal_in_any_form(function, x, w, most):
    run = partial(value_and_gradients, function)
    found = jax.jit(jsplit.faster_convolutions(run))(x, w)
    assert gap(found, jax.jit(run)(x, w)) < most


@settings(max_examples=15, deadline=None, derandomize=True)
@given(convolutions())
def test_a_convolution_and_its_gradients_are_what_xla_computes(drawn):
    function, x, w = drawn
    equal_in_any_form(function, random(x, 1), random(w, 2), 2e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(convolutions())
def test_they_are_in_double_precision_too(drawn):
    function, x, w = drawn
    with jax.enable_x64(True):
        equal_in_any_form(
            function, random(x, 1, np.float64), random(w, 2, np.float64), 1e-12
        )


SAME = partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=NUMBERS[2],
)
LARGE = (30, 16, 16, 8), (3, 3, 8, 16)


def test_large_ones_are_divided_and_equal(monkeypatch):
    x, w = random(LARGE[0], 1), random(LARGE[1], 2)
    own = jax.jit(partial(value_and_gradients, SAME))(x, w)
    results = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(conv_choice, "cores", lambda cores=cores: cores)
        step = partial(value_and_gradients, SAME)
        forms = [f.form for f in jsplit.convolution_forms(step, x, w)]
        assert "sum of 4 parts" in forms
        assert ("batch divided over cores" in forms) == (cores > 1)
        results.append(jax.jit(jsplit.faster_convolutions(step))(x, w))
        assert gap(results[-1], own) < 2e-6
    # However many cores there are, the bits are the same.
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


@pytest.mark.parametrize("padding", [(0, 0), (-1, 2), (2, -1), (-3, 4), (4, -3)])
@pytest.mark.parametrize(("apart", "taps"), [(2, 7), (3, 8), (4, 12)])
def test_no_zero_between_elements_is_multiplied_and_sums_are_those_of_numpy(
    padding, apart, taps
):
    x, w = random((2, 5, 3), 1), random((taps, 3, 4), 2)
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1,),
        padding=[padding],
        lhs_dilation=(apart,),
        dimension_numbers=NUMBERS[1],
    )
    assert [f.form for f in jsplit.convolution_forms(convolve, x, w)] == ["phases"]
    low, high = (max(0, p) for p in padding)
    wide = np.zeros((2, 4 * apart + 1, 3))
    wide[:, ::apart] = x
    wide = np.pad(wide, [(0, 0), (low, high), (0, 0)])
    wide = wide[:, max(0, -padding[0]) : wide.shape[1] - max(0, -padding[1])]
    expected = [
        np.einsum("btf,tfo->bo", wide[:, at : at + taps], w)
        for at in range(wide.shape[1] - taps + 1)
    ]
    found = jax.jit(jsplit.faster_convolutions(convolve))(x, w)
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-5)


def test_clients_with_weights_of_their_own_are_groups_and_equal():
    x, w = random((3, 5, 8, 8, 2), 1), random((3, 3, 3, 2, 4), 2)
    many = jax.vmap(SAME)
    equal_in_any_form(many, x, w, 2e-6)
    rows = jsplit.convolution_forms(partial(value_and_gradients, many), x, w)
    assert [r.form for r in rows] == ["group by group"] * 3


def test_a_depthwise_one_is_sums_of_shifts():
    x, w = random((5, 8, 8, 6), 1), random((3, 3, 1, 12), 2)
    depthwise = partial(SAME, feature_group_count=6)
    equal_in_any_form(depthwise, x, w, 2e-6)
    rows = jsplit.convolution_forms(depthwise, x, w)
    assert [r.form for r in rows] == ["sums of shifts"]


def test_other_dtypes_stay_as_they_are():
    x, w = random(LARGE[0], 1, jnp.bfloat16), random(LARGE[1], 2, jnp.bfloat16)
    run = partial(value_and_gradients, SAME)
    rows = jsplit.convolution_forms(run, x, w)
    assert {r.form for r in rows} == {"XLA's own"}
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(jsplit.faster_convolutions(run))(x, w),
        jax.jit(run)(x, w),
    )


# Max pooling.


def pooled(x, window, strides, padding):
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["SAME", "VALID"]),
    st.sampled_from([0.0, np.nan, -np.inf, np.inf]),
)
def test_the_gradient_of_max_pooling_is_xla_s_bit_by_bit(
    rank, window, stride, padding, odd
):
    """With equal elements in a window, and whatever is no number among them."""
    x = np.random.default_rng(0).integers(-2, 3, (2, *(9, 8, 7)[:rank], 3))
    x = np.where(x == 2, odd, x).astype(np.float32)
    window, strides = ((1, *[n] * rank, 1) for n in (window, stride))

    def gradient(x):
        out, pull = jax.vjp(lambda x: pooled(x, window, strides, padding), x)
        # Whole numbers: whatever the order of a sum, it is exact.
        return pull(jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape))

    found = jax.jit(jsplit.faster_convolutions(gradient))(x)
    np.testing.assert_array_equal(found, jax.jit(gradient)(x))


# Whole programs.


class Net(nnx.Module):
    """Of everything that is slow: strides, groups, depthwise, 1x1, three axes, pooling."""

    def __init__(self, rank, rngs):
        conv = partial(nnx.Conv, rngs=rngs)
        window, self.rank = (3,) * rank, rank
        self.convs = nnx.List(
            [
                conv(3, 8, window, strides=2),
                conv(8, 8, window, feature_group_count=2),
                conv(8, 16, window, feature_group_count=8),
                conv(16, 8, (1,) * rank, strides=2),
                nnx.ConvTranspose(8, 4, window, strides=(2,) * rank, rngs=rngs),
            ]
        )

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        x = nnx.max_pool(x, (2,) * self.rank, (2,) * self.rank)
        return x.mean(range(1, x.ndim))


def step_of(rank):
    """A step in a loop, and its arguments."""
    graph, params = nnx.split(Net(rank, nnx.Rngs(0)), nnx.Param)

    def step(params, x):
        def loss(params, scale):
            return (nnx.merge(graph, params)(x * scale) ** 2).sum()

        def one(params, scale):
            value, gradient = jax.value_and_grad(loss)(params, scale)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), value

        return lax.scan(one, params, jnp.arange(1.0, 4.0))

    return step, params, random((10, *(12, 8, 8)[:rank], 3), 1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_in_a_whole_step_nothing_slow_is_left_and_numbers_are_the_same(rank):
    step, *args = step_of(rank)
    own = jax.jit(step)(*args)
    assert gap(jax.jit(jsplit.faster_convolutions(step))(*args), own) < 1e-5

    left = []

    def look(eqn):
        if eqn.primitive.name == "select_and_scatter_add":
            left.append(str(eqn.params))
        if eqn.primitive.name == "conv_general_dilated":
            p = eqn.params
            numbers = p["dimension_numbers"]
            in_order = numbers.lhs_spec[:2] == (0, len(numbers.lhs_spec) - 1)
            in_order &= numbers.rhs_spec[0] == len(numbers.rhs_spec) - 1
            one = p["feature_group_count"] == p["batch_group_count"] == 1
            if not (in_order and one and len(p["window_strides"]) < 3):
                left.append(str(p))
        return None

    run_replaced(jsplit.faster_convolutions(step), look, tuple(args), {})
    assert not left


def test_what_is_rewritten_once_is_not_rewritten_again():
    """A trainer's step within a round, or within a step of the user's, say."""
    args = random((64, 16, 16, 8), 1), random(LARGE[1], 2)
    step = partial(value_and_gradients, SAME)
    once = jsplit.faster_convolutions(step)
    assert {r.form for r in jsplit.convolution_forms(step, *args)} > {"sum of 4 parts"}
    # The forms are calls by now, and nothing in them is looked at.
    before = str(jax.make_jaxpr(once)(*args))
    assert str(jax.make_jaxpr(jsplit.faster_convolutions(once))(*args)) == before


def test_on_an_accelerator_nothing_is_changed(monkeypatch):
    step, *args = step_of(2)
    before = str(jax.make_jaxpr(step)(*args))
    assert str(jax.make_jaxpr(jsplit.faster_convolutions(step))(*args)) != before
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert str(jax.make_jaxpr(jsplit.faster_convolutions(step))(*args)) == before
    # Unless what runs there is put on a CPU all the same.
    with jax.default_device(jax.devices("cpu")[0]):
        assert str(jax.make_jaxpr(jsplit.faster_convolutions(step))(*args)) != before


def test_a_function_keeps_its_arguments_and_results():
    def step(x, *, train, scale=2.0, more=None):
        assert train is True and more is None  # static, as they came
        return {"y": (SAME(x, jnp.ones((3, 3, 8, 2))) * scale, None)}, ()

    x = random((4, 5, 5, 8), 1)
    faster = jsplit.faster_convolutions(step)
    assert faster.__name__ == "step"
    found, expected = faster(x, train=True), step(x, train=True)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_allclose(found[0]["y"][0], expected[0]["y"][0], rtol=1e-5)


def test_a_module_that_is_changed_in_place_must_be_returned():
    def step(net, x):
        net.norm.mean[...] = net.norm.mean + 1.0
        return net(x).sum()

    class Small(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(self.conv(x))

    x = random((4, 5, 5, 8), 1)
    for wrapped in (
        jsplit.faster_convolutions(step),
        nnx.jit(jsplit.faster_convolutions(step)),
    ):
        with pytest.raises(
            ValueError, match="norm.mean.* in place, which would be lost"
        ):
            wrapped(Small(), x)
    new, _ = jsplit.faster_convolutions(lambda net, x: (net, step(net, x)))(Small(), x)
    assert float(new.norm.mean[0]) != 0.0


def test_what_no_form_can_be_written_for_stays():
    """Shapes by name, arrays that differ along a mesh, and operators given to a solver."""
    faster = jsplit.faster_convolutions(SAME)
    x, w = random((4, 6, 6, 8), 1), random((3, 3, 8, 4), 2)

    (size,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(faster))(
        jax.ShapeDtypeStruct((size, 6, 6, 8), jnp.float32),
        jax.ShapeDtypeStruct(w.shape, jnp.float32),
    )
    assert gap(exported.call(x, w), jax.jit(SAME)(x, w)) < 2e-6

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
    spec = jax.P("i")
    spread = jax.shard_map(SAME, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    found = jax.jit(jsplit.faster_convolutions(spread))(x, w)
    assert gap(found, jax.jit(spread)(x, w)) < 2e-6

    def solve(x, w):
        def matvec(v):
            return 3.0 * v + SAME(v.reshape(x.shape), w).reshape(-1) * 1e-3

        return jax.scipy.sparse.linalg.cg(matvec, x.reshape(-1), maxiter=2)[0]

    found = jax.jit(jsplit.faster_convolutions(solve))(x, random((3, 3, 8, 8), 2))
    assert gap(found, jax.jit(solve)(x, random((3, 3, 8, 8), 2))) < 1e-4


def test_the_user_s_settings_are_the_user_s():
    x, w = random((4, 6, 6, 8), 1), random((3, 3, 1, 8), 2)
    depthwise = partial(SAME, feature_group_count=8)
    with jax.numpy_rank_promotion("raise"):
        equal_in_any_form(depthwise, x, w, 2e-6)

    def wide(x, w):
        with jax.enable_x64(True):
            x, w = x.astype(jnp.float64), w.astype(jnp.float64)
            return depthwise(x, w).astype(jnp.float32)

    found = jax.jit(jsplit.faster_convolutions(wide))(x, w)
    assert gap(found, jax.jit(wide)(x, w)) < 2e-6


def test_kernels_are_one_of_two():
    part = jsplit.segment(lambda x: 2 * x, inputs=["x"])
    topology = jsplit.vanilla(part, part, loss=max)
    for interpreter in (jsplit.fused, jsplit.messages):
        with pytest.raises(ValueError, match="`kernels` must be one of fast, xla, got"):
            interpreter(topology, {}, kernels="slow")
        config = interpreter(topology, {}).config
        assert getattr(config, "kernels") == compiling.KERNELS[0]  # noqa: B009


def test_no_other_room_knows_that_there_are_convolutions():
    """So a new form, or a backend that needs none, is a matter of one room."""
    source = Path(jsplit.__file__).parent
    # Attackers bring networks of their own, and views follow every operation.
    rooms = [
        f
        for f in source.rglob("*.py")
        if f.parent.name != "jaxprs" and "privacy" not in f.parts
    ]
    knowing = [f for f in rooms if "convol" in f.read_text().lower()]
    assert knowing == [source / "__init__.py"]


def test_what_is_in_another_form_keeps_its_place_in_a_trace_of_the_profiler():
    def named(x):
        with jax.named_scope("hospital"):
            return jnp.sin(x)

    closed = jax.make_jaxpr(named)(1.0)
    new = replaced(closed, lambda eqn: lambda x: x + 1)
    assert [str(e.source_info.name_stack) for e in new.jaxpr.eqns] == ["hospital"]
    assert new.jaxpr.eqns[0].primitive.name != "sin"
