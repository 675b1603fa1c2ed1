"""Where a model can be cut: every place, by a name that `split` takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsplit
from tests.models import CNN, MLP, Former, ResNet, Twice, rngs, weights
from tests.slicing.cases import (
    CASES,
    assert_same,
    image,
    mask,
    plain,
    random_like,
    row,
    tokens,
)


@pytest.mark.parametrize("name", ["resnet", "remat", "one module twice"])
def test_every_cut_point_splits_and_joins_to_the_whole(name):
    case = CASES[name]
    model, key = case.model(), jax.random.key(1)
    points = jsplit.cut_points(model, *case.example, **case.options)
    whole = jsplit.segment(model, **case.options)
    params, state = whole.init(key, *case.example)
    inputs = random_like(case.example, 3)

    def run(apply, params, state):
        def loss(params):
            output, new = apply(params, state, key, *inputs)
            return jnp.sin(output).sum(), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    splits = [
        jsplit.split(model, *case.example, cuts=[p], **case.options) for p in points
    ]
    joined = [jsplit.join(parts) for parts in splits]
    first = [j.init(key, *case.example) for j in joined]
    run_all = jax.jit(
        lambda p, s, f: (
            run(whole.apply, p, s),
            [run(j.apply, *x) for j, x in zip(joined, f, strict=True)],
        )
    )
    ((loss, new), grads), found = run_all(params, state, first)
    for point, parts, ((loss2, new2), grads2) in zip(
        points, splits, found, strict=True
    ):
        assert list(parts) == [point.name, "output"]
        assert_same(
            (loss2, jsplit.merge(*new2.values()), jsplit.merge(*grads2.values())),
            (loss, plain(new), plain(grads)),
        )
        (own, statistics), given = parts[point.name].init(key), [inputs[0]]
        value = jax.eval_shape(parts[point.name].apply, own, statistics, key, *given)[0]
        assert value.shape == (3, *point.shape) and value.dtype == point.dtype
        assert point.params == sum(x.size for x in jax.tree.leaves(own))
        assert (
            point.param_bytes == 4 * point.params
            and point.bytes_per_example == 4 * np.prod(point.shape)
        )


def test_cut_points_have_readable_names():
    names = [p.name for p in jsplit.cut_points(CNN(rngs()), image)]
    expected = [
        "conv1",
        "norm1",
        "norm1/relu",
        "smashed",
        "conv2",
        "norm2",
        "norm2/relu",
        "drop2",
    ]
    assert [n for n in names if n in expected] == [n for n in expected if n in names]
    assert set(expected) - set(names) <= {"norm1/relu"}
    assert [
        p.name
        for p in jsplit.cut_points(ResNet(rngs()), image)
        if "/" not in p.name and "_" not in p.name
    ] == [
        "blocks.0",
        "blocks.1",
    ]
    twice = [p.name for p in jsplit.cut_points(Twice(rngs()), row)]
    assert "inner#2" in twice and "inner" not in twice and "inner#1" not in twice


def test_an_input_in_every_layer_leaves_cut_points_only_if_it_is_shared():
    alone = [p.name for p in jsplit.cut_points(Former(rngs()), tokens, mask)]
    shared = [
        p.name for p in jsplit.cut_points(Former(rngs()), tokens, mask, public=["mask"])
    ]
    assert (
        "embed" not in alone
        and "embed" in shared
        and {"smashed", "norm"} < set(alone) < set(shared)
    )


class TwoValues(nnx.Module):
    """Returns two values, and is called twice."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, h):
        h = jnp.tanh(self.layer(h))
        return h, h.sum(1)


class Unrolled(nnx.Module):
    def __init__(self, rngs):
        self.pair = TwoValues(rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.pair(self.pair(x)[0])[0])


def test_every_name_that_cut_points_gives_is_one_that_split_takes():
    points = jsplit.cut_points(Unrolled(rngs()), row)
    assert "pair#2/0" in [p.name for p in points]
    for point in points:
        assert list(jsplit.split(Unrolled(rngs()), row, cuts=[point])) == [
            point.name,
            "output",
        ]


def test_cut_points_need_shapes_only():
    shape = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
    assert jsplit.cut_points(CNN(rngs()), shape) == jsplit.cut_points(
        CNN(rngs()), image
    )


def test_a_cut_before_what_only_training_computes_is_none_in_inference():
    def model(params, x, train):
        h = jsplit.cut(x @ params["a"], "h")
        return h * 2 if train else h

    parts = jsplit.split(model, row, init=weights)
    h = jnp.ones((2, 3))
    assert [
        parts["output"].apply(*parts["output"].init(None), None, h, train=t)[0][0, 0]
        for t in (True, False)
    ] == [2, 1]


def test_a_cut_may_be_an_entry_of_cut_points_under_a_name_of_its_own():
    point = next(p for p in jsplit.cut_points(MLP(rngs()), row) if p.name == "a")
    assert list(jsplit.split(MLP(rngs()), row, cuts={"h": point})) == ["h", "output"]
    assert list(jsplit.split(MLP(rngs()), row, cuts={"h": [point]})) == ["h", "output"]


def test_places_of_one_reason_are_printed_together_and_names_in_the_order_of_layers():
    def model(x):
        h = x
        for n in range(12):
            h = jsplit.cut(jnp.tanh(h), f"layer{n}")
        return h + jnp.sin(x)

    points = jsplit.cut_points(model, row)
    assert not points and len({*points.why} & {f"layer{n}" for n in range(12)}) == 12
    [rest] = [r for r in str(points).splitlines() if "layer0, layer1, " in r]
    assert " and 8 more: a skip connection goes around the cut `layer0`: " in rest
    with pytest.raises(ValueError, match=r"'layer0', 'layer1', 'layer2'\."):
        jsplit.split(model, row, cuts=["layerx"])
    with pytest.raises(ValueError, match=r"'layer2', 'layer3', .* 'layer7'\."):
        jsplit.split(model, row, cuts=["?"])
