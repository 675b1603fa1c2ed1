"""Trees merge to that of the whole model, and segments join to it."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import jsplit
from tests.models import MLP, rngs, vertical, weights
from tests.slicing.cases import assert_same, row


def test_merge_refuses_a_leaf_that_two_hold():
    assert jsplit.merge({"a": {"x": 1}}, {"a": {"y": 2}}, {}) == {"a": {"x": 1, "y": 2}}
    for other in ({"a": {"x": 3}}, {"a": 3}, {"a": {"x": {"deeper": 3}}}):
        with pytest.raises(ValueError, match="two of the trees hold the leaf `a"):
            jsplit.merge({"a": {"x": 1}}, other)


def test_merge_takes_nested_dictionaries():
    with pytest.raises(
        ValueError, match="`merge` takes nested dictionaries, .* got a list"
    ):
        jsplit.merge([1])


def test_merge_copies_so_that_the_whole_outlives_a_step():
    tree = {"a": jnp.ones(2), "key": jax.random.key(0)}
    merged = jsplit.merge(tree)
    jax.tree.map(lambda x: x.delete(), tree)
    assert (merged["a"] == 1).all() and merged["key"] == jax.random.key(0)


def test_merge_gives_back_the_containers_of_the_whole():
    class Boxed(linen.Module):
        @linen.compact
        def __call__(self, x):
            init = linen.with_partitioning(linen.initializers.ones, (None, "model"))
            return linen.Dense(2, name="b")(
                jsplit.cut(linen.Dense(3, kernel_init=init, name="a")(x), "h")
            )

    parts = jsplit.split(Boxed(), row)
    params = [p.init(jax.random.key(0))[0] for p in parts.values()]
    like = Boxed().init(jax.random.key(0), row)["params"]
    merged = jsplit.merge(*params, like=like)
    assert jax.tree.structure(merged) == jax.tree.structure(like)
    assert_same(
        Boxed().apply({"params": merged}, row), Boxed().apply({"params": like}, row)
    )
    assert jsplit.merge({0: 1}, {1: 2}, like=[0, 0]) == [1, 2]
    for trees, one in (([{0: 1}], "`like`"), ([{0: 1, 1: 2, 2: 3}], "the trees")):
        with pytest.raises(ValueError, match=f"is in {one} alone"):
            jsplit.merge(*trees, like=[0, 0])


def test_join_takes_inputs_in_the_order_asked_for():
    parts = jsplit.split(vertical, row, jnp.ones((2, 3)), init=weights)
    assert jsplit.join(parts).inputs == ("y", "x")
    assert jsplit.join(parts, inputs=["x", "y"]).inputs == ("x", "y")
    with pytest.raises(
        ValueError,
        match=r"`inputs` must name all that the segments read, \['y', 'x'\], got \['x'\]",
    ):
        jsplit.join(parts, inputs=["x"])
    with pytest.raises(
        ValueError, match="`inputs` names `left`, which a segment produces"
    ):
        jsplit.join(parts, inputs=["x", "y", "left"])
    joined = jsplit.join(parts)
    with pytest.raises(ValueError, match=r"take the inputs \['y', 'x'\], got 1"):
        joined.init(jax.random.key(0), row)


def test_join_refuses_segments_that_do_not_follow_one_another():
    circle = {"u": jsplit.segment(lambda v: v), "v": jsplit.segment(lambda u: u)}
    with pytest.raises(
        ValueError, match="the segments `u`, `v` read each other's values in a circle"
    ):
        jsplit.join(circle)
    with pytest.raises(ValueError, match="segment `u` does not name its inputs"):
        jsplit.join({"u": jsplit.segment(lambda *x: x)})
    with pytest.raises(ValueError, match="`u` must be a segment, got a MLP"):
        jsplit.join({"u": MLP(rngs())})
    with pytest.raises(
        ValueError, match="`segments` must be a dictionary .* got a list"
    ):
        jsplit.join([])


def test_join_walks_any_segments():
    joined = jsplit.join(
        {
            "left": jsplit.segment(MLP(rngs()), inputs=["x"]),
            "sum": jsplit.segment(lambda left, x: left.sum() + x.sum()),
        }
    )
    params, state = joined.init(jax.random.key(0), row)
    output, _ = joined.apply(params, state, jax.random.key(0), row, train=False)
    net = MLP(rngs())
    net.eval()
    assert_same(output, net(row).sum() + row.sum())
