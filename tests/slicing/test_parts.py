"""What a segment that `split` gives is: what it holds, what runs it, and what it sends."""

import gc
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import jsplit
from tests.models import (
    CNN,
    MLP,
    LinenCNN,
    Registered,
    Typed,
    Watched,
    kept,
    rngs,
    two_layers,
    weights,
)
from tests.slicing.cases import CASES, assert_same, image, random_like, row


def reachable_arrays(*roots):
    """Every array that an object refers to, through closures, records and caches, but
    not through module globals.
    """
    seen, todo = {}, list(roots)
    while todo:
        at = todo.pop()
        if id(at) in seen or isinstance(at, (type, ModuleType)):
            continue
        seen[id(at)] = at
        beyond = at.__globals__ if isinstance(at, FunctionType) else None
        todo += [x for x in gc.get_referents(at) if x is not beyond]
    return [x for x in seen.values() if isinstance(x, (jax.Array, np.ndarray))]


def test_a_segment_holds_no_array_of_another():
    class Wide(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(4, 101, rngs=rngs)
            self.norm = nnx.BatchNorm(101, rngs=rngs)
            self.b = nnx.Linear(101, 103, rngs=rngs)

        def __call__(self, x):
            return self.b(jsplit.cut(self.norm(self.a(x)), "smashed"))

    parts = jsplit.split(Wide(rngs()), row)
    for part in parts.values():
        part.apply(
            *part.init(None), None, jnp.ones((3, 4 if part.name == "smashed" else 101))
        )
    shapes = {
        n: {x.shape for x in reachable_arrays(p.init, p.apply) if x.size > 100}
        for n, p in parts.items()
    }
    assert shapes == {"smashed": {(4, 101), (101,)}, "output": {(101, 103), (103,)}}


def test_a_segment_takes_up_no_constant_that_another_reads():
    table = np.arange(300.0, dtype=np.float32).reshape(100, 3)
    parts = jsplit.split(
        lambda p, x: jsplit.cut(x @ p["a"] + jnp.asarray(table)[7], "h") @ p["b"],
        row,
        init=weights,
    )
    params, state = parts["output"].init(jax.random.key(0))
    jaxpr = jax.make_jaxpr(parts["output"].apply)(params, state, None, jnp.ones((2, 3)))
    assert all(np.size(c) < 100 for c in jaxpr.consts) and "100" not in str(jaxpr)


@pytest.mark.parametrize("name", ["mlp", "cnn", "linen cnn"])
def test_a_free_batch_size_can_be_exported(name):
    case = CASES[name]
    joined = jsplit.join(jsplit.split(case.model(), *case.example, cuts=case.cuts))
    params, state = joined.init(jax.random.key(0), *case.example)

    @jax.jit
    def infer(x):
        return joined.apply(params, state, None, x, train=False)[0]

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(infer)(
        jax.ShapeDtypeStruct((batch, *case.example[0].shape[1:]), jnp.float32)
    )
    x = random_like(case.example[0], 5)
    assert_same(exported.call(x), infer(x))


def test_segments_run_under_vmap():
    joined = jsplit.join(jsplit.split(MLP(rngs()), row))
    params, state = joined.init(jax.random.key(0), row)
    x, keys = (
        random_like(jnp.ones((3, 2, 4)), 3),
        jax.random.split(jax.random.key(1), 3),
    )

    def one(key, x):
        return joined.apply(params, state, key, x)[0]

    together, apart = jax.jit(
        lambda: (
            jax.vmap(one)(keys, x),
            jnp.stack([one(keys[i], x[i]) for i in range(3)]),
        )
    )()
    assert_same(together, apart)


def test_an_old_style_key_is_the_new_one():
    part = jsplit.split(MLP(rngs()), row)["smashed"]
    first = part.init(None)
    assert_same(
        part.apply(*first, jax.random.PRNGKey(3), row),
        part.apply(*first, jax.random.key(3), row),
        0,
    )


def test_split_works_in_double_precision():
    with jax.enable_x64(True):
        x = jnp.linspace(-1, 1, 8).reshape(2, 4)
        whole, joined = (
            jsplit.segment(two_layers, init=weights),
            jsplit.join(jsplit.split(two_layers, x, init=weights)),
        )
        params, _ = whole.init(jax.random.key(0), x)
        ours, state = joined.init(jax.random.key(0), x)
        assert params["a"].dtype == jnp.float64
        assert_same(
            joined.apply(ours, state, None, x)[0],
            whole.apply(params, {}, None, x)[0],
            1e-14,
        )
        assert_same(jsplit.merge(*ours.values()), params, 0)


def test_a_segment_can_be_split_again():
    parts = jsplit.split(CNN(rngs()), image)
    again = jsplit.split(parts["output"], jnp.ones((2, 4, 4, 2)), cuts=["norm2"])
    assert list(again) == ["norm2", "output"] and again["norm2"].inputs == ("smashed",)
    first = {
        n: p.init(jax.random.key(0))
        for n, p in {**again, "whole": parts["output"]}.items()
    }
    assert_same(
        jsplit.merge(first["norm2"][0], first["output"][0]), first["whole"][0], 0
    )
    h = random_like(jnp.ones((2, 4, 4, 2)), 3)
    middle, _ = again["norm2"].apply(*first["norm2"], jax.random.key(5), h)
    end, _ = again["output"].apply(*first["output"], jax.random.key(5), middle)
    assert_same(end, parts["output"].apply(*first["whole"], jax.random.key(5), h)[0])


@pytest.mark.parametrize("name", ["smashed", "output"])
def test_each_slice_of_a_remat_region_recomputes_its_own_part(name):
    """The gradient's jaxpr holds the region and its policy, and computes the region's
    sine or cosine again.
    """
    part = jsplit.split(kept, row, init=weights)[name]
    params, state = part.init(jax.random.key(0))
    x = row if name == "smashed" else jnp.ones((2, 3))
    jaxpr = jax.make_jaxpr(
        jax.grad(lambda p, x: part.apply(p, state, None, x)[0].sum(), (0, 1))
    )(params, x)
    regions = [
        e for e in jaxpr.eqns if e.primitive.name in ("remat", "remat2", "checkpoint")
    ]
    assert regions and any(e.params["policy"] is not None for e in regions)


def test_statistics_belong_to_the_segment_that_can_update_them():
    parts = jsplit.split(Watched(rngs()), row)
    held = {n: sorted(p.init(None)[1]) for n, p in parts.items()}
    assert held == {"smashed": ["count", "mean", "penalty"], "output": []}
    held = {
        n: p.init(jax.random.key(0))[1]
        for n, p in jsplit.split(LinenCNN(), image).items()
    }
    assert sorted(held["smashed"]) == ["batch_stats"] and sorted(held["output"]) == [
        "losses"
    ]


def test_outputs_are_segments_of_their_own_where_named():
    def heads(params, x):
        h = jsplit.cut(x @ params["a"], "h")
        return {"one": h @ params["b"], "two": h.sum(1)}

    whole = heads(weights(jax.random.key(0)), row)
    for model, names in (
        (heads, ["one", "two"]),
        (lambda p, x: tuple(heads(p, x).values()), ["one", "two"]),
    ):
        parts = jsplit.split(model, row, init=weights, outputs=names)
        assert list(parts) == ["h", *names] and not parts["one"].inputs == ("x",)
        joined = jsplit.join(parts)
        assert_same(
            joined.apply(*joined.init(jax.random.key(0), row), None, row)[0], whole
        )
    parts = jsplit.split(heads, row, init=weights, outputs=["two"])
    assert list(parts) == ["h", "two"]
    assert list(jsplit.split(two_layers, row, init=weights, outputs=["logits"])) == [
        "smashed",
        "logits",
    ]


def test_a_watched_model_leaves_nothing_behind():
    call, below = Registered.__call__, list(Registered.below)
    jsplit.split(Typed(rngs()), row, cuts=["blocks.0.up"])
    with pytest.raises(ValueError, match="does not exist"):
        jsplit.split(Typed(rngs()), row, cuts=["nowhere"])
    assert (
        Registered.__call__ is call
        and "__call__" not in vars(Registered)
        and Registered.below == below
    )


def test_models_are_divided_in_several_threads_at_once():
    with ThreadPoolExecutor(3) as threads:
        found = list(
            threads.map(
                lambda i: list(
                    jsplit.split(Typed(nnx.Rngs(i)), row, cuts=["blocks.0.up"])
                ),
                range(6),
            )
        )
    assert found == [["blocks.0.up", "output"]] * 6


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("narrow")])
def test_what_a_model_of_mixed_precision_sends_is_narrow(name):
    """What crosses is narrow, and so is what is computed; parameters, gradients and
    statistics are not.
    """
    case = CASES[name]
    part = next(
        iter(
            jsplit.split(
                case.model(), *case.example, cuts=case.cuts, **case.options
            ).values()
        )
    )
    params, state = part.init(jax.random.key(0))
    sent, new = jax.eval_shape(
        part.apply, params, state, jax.random.key(0), *case.example[: len(part.inputs)]
    )
    assert sent.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((params, new))} == {np.dtype("float32")}


def test_a_statistic_of_training_alone_keeps_its_dtype():
    class Once(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, train):
            h = jsplit.cut(self.a(x), "h")
            if train:
                self.norm = nnx.BatchStat((h**2).mean())
            return h * 2

    part = jsplit.mixed_precision(Once(rngs()))
    params, state = part.init(jax.random.key(0), row)
    for train in (True, False):
        new = part.apply(params, state, None, row, train=train)[1]
        assert jax.tree.map(jnp.result_type, new) == (
            {"norm": jnp.float32} if train else {}
        )
    assert list(jsplit.split(part, row)) == ["h", "output"]


def test_mixed_precision_takes_numbers_and_refuses_what_is_no_dtype():
    assert (
        jsplit.mixed_precision(lambda x: x * 2).apply({}, {}, None, 3.0)[0].dtype
        == jnp.bfloat16
    )
    for dtype in ("nonsense", "int32"):
        with pytest.raises(
            ValueError, match=f"`compute` must be a floating dtype, got '{dtype}'"
        ):
            jsplit.mixed_precision(two_layers, dtype, init=weights)
