"""Segments of a whole model, walked in order, are the whole model."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import jsplit
from jsplit.core.paths import by_path
from tests.models import weights
from tests.slicing.cases import assert_same, everything, plain, random_like, sweep


@sweep
def test_split_then_join_is_the_whole_model(case):
    """Parameters, outputs, gradients, statistics and dropout, in both modes, at another
    batch size than the example's.
    """
    model, key = case.model(), jax.random.key(1)
    shared = {k: v for k, v in case.options.items() if k == "public"}
    options = {k: v for k, v in case.options.items() if k not in shared}
    whole = jsplit.segment(model, **options)
    parts = jsplit.split(model, *case.example, cuts=case.cuts, **case.options)
    joined = jsplit.join(parts, inputs=whole.inputs)
    assert sorted(parts) == sorted(case.names) and list(parts)[-1] == case.names[-1]

    params, state = whole.init(key, *case.example)
    ours, ours_state = joined.init(key, *case.example)
    assert_same(jsplit.merge(*ours.values()), plain(params), 0)
    assert_same(jsplit.merge(*ours_state.values()), plain(state), 0)

    inputs = random_like(case.example, 3)
    both = jax.jit(
        lambda a, b: (everything(whole.apply)(*a), everything(joined.apply)(*b))
    )
    theirs, found = both((params, state, key, inputs), (ours, ours_state, key, inputs))
    for (output, new, grads, data), (output2, new2, grads2, data2) in zip(
        theirs, found, strict=True
    ):
        assert_same(output2, output)
        assert_same(jsplit.merge(*new2.values()), plain(new))
        assert_same(jsplit.merge(*grads2.values()), plain(grads))
        assert_same(data2, data)


@sweep
def test_a_segment_has_the_parameters_it_reads_and_no_others(case):
    """Every parameter is an input that some equation of its own jaxpr uses; only the
    last keeps those nobody reads.
    """
    model_options = {k: v for k, v in case.options.items() if k != "public"}
    parts = jsplit.split(case.model(), *case.example, cuts=case.cuts, **case.options)
    values = dict(
        zip(
            jsplit.segment(case.model(), **model_options).inputs,
            case.example,
            strict=True,
        )
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    for name, part in parts.items():
        params, state = jax.eval_shape(part.init, key)
        assert part.inputs is not None
        inputs = [values[i] for i in part.inputs]
        paths = by_path(params).paths
        used = set()
        for train in (True, False):
            jaxpr = jax.make_jaxpr(partial(part.apply, train=train))(
                params, state, key, *inputs
            ).jaxpr
            read = {id(v) for e in jaxpr.eqns for v in e.invars} | {
                id(v) for v in jaxpr.outvars
            }
            used |= {
                path
                for path, v in zip(paths, jaxpr.invars, strict=False)
                if id(v) in read
            }
        unread = (
            {("c",), ("b",)}
            if case.options.get("init") is weights and name == "output"
            else set()
        )
        assert set(paths) - used <= unread
        assert part.trainable == bool(paths)
        values[name] = jax.eval_shape(part.apply, params, state, key, *inputs)[0]


def two(w, x, mask):
    return jsplit.cut((x * mask) @ w, "h") * 2


def start(key, x, mask):
    return jnp.ones((3, 2))


BATCH = {"mask": jnp.ones((4, 3)), "label": jnp.ones(4), "x": jnp.ones((4, 3))}


def test_a_batch_gives_a_model_its_inputs_by_name():
    given = jsplit.split(two, BATCH, init=start)
    wanted = jsplit.split(two, BATCH["x"], BATCH["mask"], init=start)
    assert list(map(str, given.values())) == list(map(str, wanted.values()))
    assert given["h"].inputs == ("x", "mask")
    assert jsplit.cut_points(two, BATCH, init=start) == jsplit.cut_points(
        two, BATCH["x"], BATCH["mask"], init=start
    )
    device, link = jsplit.Device(flops=1e6), jsplit.Network(bits=1e6)
    plan = jsplit.plan(two, BATCH, init=start, client=device, link=link)
    assert [c.point.name for c in plan.choices]
    lacking = {name: BATCH[name] for name in ("label", "x")}
    with pytest.raises(
        ValueError, match="takes the input `mask`, which the example lacks"
    ):
        jsplit.split(two, lacking, init=start)


def test_a_dictionary_that_is_the_only_input_stays_one():
    def model(fields):
        return jsplit.cut(fields["x"] * fields["mask"], "h") + 1

    # By its own name it may come too.
    for example in (BATCH, {"fields": BATCH}):
        parts = jsplit.split(model, example)
        assert parts["h"].inputs == ("fields",)
