"""A stack of layers that a scan runs is cut between its layers."""

from __future__ import annotations

import gc
import weakref
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from tests.slicing.cases import assert_same, plain
from tests.slicing.stacks import LAYERS, MODELS, Net, draw, function

X, MASK = jax.random.normal(jax.random.key(5), (6, 4)), jnp.arange(24).reshape(6, 4) % 5
CUTS = {"up": "middle[1]", "down": "middle[3]"}
SHAPES = {"up": (1,), "down": (2,), "output": (1,)}
WIDE = {"init": draw, "key": "key", "public": ["mask"]}


def example(kind):
    return (X, MASK > 0) if kind == "function" else (X,)


@cache
def parts(kind):
    make, options = MODELS[kind]
    return jsplit.split(make(), *example(kind), cuts=CUTS, **options)


def squares(y, label):
    return ((y - label) ** 2).sum(-1)


@cache
def trainer(*cuts):
    made = jsplit.split(function, X, MASK > 0, cuts=list(cuts), **WIDE)
    chain = dict(zip(("one", "two", "three"), made.values(), strict=False))
    topology = jsplit.multihop(chain, loss=squares, public=["mask"])
    return jsplit.fused(topology, optax.sgd(0.1))


def batch():
    return {"x": X, "mask": MASK > 0, "label": jnp.ones((6, 3))}


@pytest.mark.parametrize("kind", MODELS)
def test_segments_compute_what_the_whole_model_does(kind):
    """Outputs, statistics, masks and gradients; each with its own layers alone."""
    made, given, key = parts(kind), example(kind), jax.random.key(1)
    make, options = MODELS[kind]
    whole = jsplit.segment(
        make(), **{k: v for k, v in options.items() if k != "public"}
    )
    assert list(made) == ["up", "down", "output"]
    joined = jsplit.join(made, whole.inputs)
    params, state = joined.init(key, *given)
    first = whole.init(key, *given)
    for name, own in params.items():
        if kind != "linen":  # whose layers lie along another axis
            leaf = {x.shape[:1] for x in jax.tree.leaves(own["middle"])}
            assert leaf == {SHAPES[name]}
    assert_same(jsplit.merge(*params.values()), plain(first[0]), 0)
    assert_same(jsplit.merge(*[*state.values()][::-1]), plain(first[1]), 0)

    def trained(segment, params, state):
        def loss(params):
            y, new = segment.apply(params, state, key, *given, train=True)
            return jnp.sin(y).sum(), (y, new)

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return found, grads

    ours, theirs = jax.jit(lambda *a: (trained(joined, *a), trained(whole, *first)))(
        params, state
    )
    (y, new), grads = ours
    (expected, after), wanted = theirs
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert_same(jsplit.merge(*new.values()), plain(after))
    # Float32: XLA unrolls a scan of one layer, and rounds there otherwise.
    assert_same(jsplit.merge(*grads.values()), plain(wanted), 3e-5)


def test_places_between_layers_are_cut_points_with_their_costs():
    points = {p.name: p for p in jsplit.cut_points(Net(nnx.Rngs(0)), X)}
    between = [f"middle[{k}]" for k in range(1, LAYERS)]
    assert list(points)[1:-1] == ["bottom", *between, "middle"]
    layer = 4 * 4 + 3 * 4
    for k, name in enumerate(["bottom", *between, "middle"]):
        point = points[name]
        assert (point.params, point.bytes_per_example) == (20 + k * layer, 16)
        assert point.forward_macs == 16 * (1 + k)
    weak, link = jsplit.Device(flops=1e9), jsplit.Network(bits=1e6)
    plan = jsplit.plan(Net(nnx.Rngs(0)), X, client=weak, link=link)
    assert {c.point.name for c in plan.choices} >= {*between}


def test_weights_move_between_models_that_are_cut_elsewhere(tmp_path):
    """From memory and from files: to other layers, and to the uncut stack."""
    first = trainer("middle[1]", "middle[3]")
    state = first.init(0, batch())
    params, _ = jsplit.variables(state)
    assert jax.tree.map(jnp.shape, params["middle"]) == {
        "w": (LAYERS, 4, 4),
        "b": (LAYERS, 4),
        "scale": (LAYERS, 1),
    }
    jsplit.save(tmp_path, state)
    for cuts in (("middle[2]",), ("middle",), ("middle[1]", "middle[3]")):
        like = trainer(*cuts).init(1, batch())
        for found in (
            jsplit.load_variables(like, params),
            jsplit.restore_weights(tmp_path, like),
        ):
            assert_same(jsplit.variables(found)[0], params, 0)
    longer = params | {"middle": {**params["middle"], "b": jnp.ones((LAYERS + 1, 4))}}
    with pytest.raises(ValueError, match=f"stack of {LAYERS} layers"):
        jsplit.load_variables(state, longer)


def test_a_segment_keeps_no_layer_of_another_alive():
    model = Net(nnx.Rngs(0))
    kernel = weakref.ref(model.middle.a.kernel[...])
    made = jsplit.split(model, X, cuts=["middle[1]"])
    del model
    gc.collect()
    assert kernel() is None
    params, _ = made["middle[1]"].init(jax.random.key(0), X)
    assert params["middle"]["a"]["kernel"]["0:1 of 4"].shape == (1, 4, 4)


def test_layers_are_frozen_by_the_path_of_the_stack():
    made = jsplit.split(
        Net(nnx.Rngs(0)), X, cuts=["middle[1]"], trainable=["middle.a.*"]
    )
    for part in made.values():
        assert part.trains is not None
        assert part.trains(("middle", "a", "kernel", "0:1 of 4")) == (
            part.name == "middle[1]"
        )
        assert not part.trains(("middle", "norm", "scale", "0:1 of 4"))


def refused(match, model, *given, cuts=("s[1]",), **options):
    with pytest.raises(ValueError, match=match):
        jsplit.split(model, *given, cuts=list(cuts), **options)


def stack(change=lambda p, x, w: (jnp.tanh(x @ w), None), after=None, **options):
    def model(params, x):
        h, rows = jax.lax.scan(
            lambda x, w: change(params, x, w), jnp.sin(x), params["s"], **options
        )
        return (h * 2) if after is None else after(h, rows)

    init = lambda key, x: {"s": jnp.ones((3, 4, 4)), "shared": jnp.ones((4, 4))}  # noqa: E731
    return model, init


def test_what_cannot_be_divided_is_refused_by_name():
    model, init = stack()
    refused("1 to 2; its result is `s`", model, X, cuts=["s[3]"], init=init)
    refused("called `t`; there are `s` of 3 layers", model, X, cuts=["t[1]"], init=init)
    refused(r"there are.* 's\[1\]', 's\[2\]'", model, X, cuts=["s.1"], init=init)
    model, init = stack(reverse=True)
    refused("reverse", model, X, init=init)
    assert [p.name for p in jsplit.cut_points(model, X, init=init)] == [
        "sin",
        "s",
    ]
    # The results of all layers are read behind the cut.
    model, init = stack(
        lambda p, x, w: (jnp.tanh(x @ w), x.sum()), lambda h, rows: h * rows.sum()
    )
    refused("goes around the cut `s.1.`: the input `x`", model, X, init=init)
    # What is carried has no batch axis.
    model = lambda p, x: stack()[0](p, x.T @ x)  # noqa: E731
    refused("leading axis must be the batch", model, X, init=init)


def test_a_weight_that_all_layers_read_is_tied_between_parties():
    model, init = stack(lambda p, x, w: (jnp.tanh(x @ w @ p["shared"]), None))
    made = jsplit.split(model, X, cuts=["s[1]"], init=init)
    with pytest.raises(ValueError, match="shared"):
        jsplit.vanilla(*made.values(), loss=squares)
    assert "s[1]" not in [p.name for p in jsplit.cut_points(model, X, init=init)]


def test_pieces_that_overlap_are_refused_and_lacking_ones_show():
    one, two = {"s": {"0:2 of 4": np.ones(2)}}, {"s": {"1:4 of 4": np.ones(3)}}
    with pytest.raises(ValueError, match="two of the trees hold row 1 of `s`"):
        jsplit.merge(one, two)
    assert list(jsplit.merge(one)["s"]) == ["0:2 of 4"]
    two = {"s": {"2:4 of 4": np.zeros(2)}}
    np.testing.assert_array_equal(jsplit.merge(two, one)["s"], [1, 1, 0, 0])


def test_a_loop_over_time_is_no_stack():
    """Also where each time has parameters of its own."""

    def model(params, x):
        rows = (x.T, params["places"])
        carry, _ = jax.lax.scan(
            lambda h, own: (jnp.tanh(h @ params["w"] + own[0][:, None] + own[1]), None),
            jnp.zeros((x.shape[0], 3)),
            rows,
        )
        return carry * 2

    init = lambda key, x: {"places": jnp.ones((4, 3)), "w": jnp.ones((3, 3))}  # noqa: E731
    assert [p.name for p in jsplit.cut_points(model, X, init=init)] == ["scan"]


def test_a_stack_in_a_file_fills_the_layers_of_each_segment(tmp_path):
    safetensors = pytest.importorskip("safetensors.flax")
    whole = draw(jax.random.key(9), X, None)
    entries = {n: whole[n] for n in ("bottom", "top")}
    entries |= {f"middle.{n}": x for n, x in whole["middle"].items()}
    safetensors.save_file(entries, tmp_path / "all.safetensors")
    made = jsplit.load(parts("function"), tmp_path / "all.safetensors")
    owned = [s.init(jax.random.key(0))[0] for s in made.values()]
    assert_same(jsplit.merge(*owned), whole, 0)
    with pytest.raises(ValueError, match="no segment has a leaf"):
        jsplit.load({"up": made["up"]}, tmp_path / "all.safetensors")
    entries["middle.b"] = jnp.ones((LAYERS + 1, 4))
    safetensors.save_file(entries, tmp_path / "all.safetensors")
    with pytest.raises(ValueError, match=f"stack of {LAYERS} layers"):
        jsplit.load(parts("function"), tmp_path / "all.safetensors")
