"""What a call of an nnx module leaves behind: kept as plain Flax keeps it, or said."""

import warnings

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

import jsplit
from tests.segments.writers import (
    KEPT,
    REFUSED,
    SAID,
    CountedInParam,
    MadeAnew,
    Normed,
    Statistics,
)

x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
batch = {"x": x, "label": np.ones((4, 3), "float32")}


def flax_steps(model):
    """Three steps of plain Flax; what the model has afterwards."""
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for _ in range(3):
        gradient = nnx.grad(lambda model: ((model(x) - 1) ** 2).mean())(model)
        optimizer.update(model, gradient)
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))


def our_steps(model):
    trainer = jsplit.fused(
        jsplit.whole(model, batch, loss=lambda y, label: ((y - label) ** 2).mean(1)),
        optax.sgd(0.1),
    )
    state = trainer.init(0, batch)
    for _ in range(3):
        state, _ = trainer.step(state, batch)
    params, statistics = jsplit.variables(state)
    return {**params, **statistics}


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
def test_a_module_that_leaves_its_parameters_alone_is_not_warned_of(kind):
    """A warning is an error here, also where they go through transformations, and back."""
    jsplit.segment(kind()).init(jax.random.key(0), x)


def test_what_a_call_writes_is_kept_of_statistics_and_not_of_parameters():
    """Steps are those of plain Flax with the first, and others with the second."""
    for kind in (Statistics, MadeAnew):
        ours, flax = our_steps(kind()), flax_steps(kind())
        for name, own in ours.items():
            np.testing.assert_allclose(own, flax[name], rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match=Normed.says):
        ours = our_steps(Normed())
    assert np.abs(ours["w"] - flax_steps(Normed())["w"]).max() > 0.1


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_a_call_that_leaves_what_no_step_keeps_says_so(kind):
    part, own = jsplit.segment(kind()), kind.says
    with pytest.warns(UserWarning, match=own):
        part.init(jax.random.key(0), x)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        part.init(jax.random.key(0), x)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_call_that_leaves_what_no_step_could_keep_is_refused(kind):
    with pytest.raises(ValueError, match=kind.says):
        jsplit.segment(kind()).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=kind.says):
        jsplit.split(nnx.Sequential(kind(), jnp.tanh), x)


def test_a_counter_among_frozen_parameters_is_refused_too():
    part = jsplit.segment(CountedInParam(), trainable=["w"])
    with pytest.raises(ValueError, match="`n`, of int32"):
        part.init(jax.random.key(0), x)
