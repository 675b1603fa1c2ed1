"""The promise: training split equals training the whole model, through every
interpreter.

The reference is plain Flax and Optax: one whole model, one jitted step, the same
optimizer on each part.
"""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import pytest

import jsplit
from tests.helpers import (
    ADAPTED,
    CONFIGURATIONS,
    FLAX,
    MODELS,
    TIED,
    Problem,
    make_problem,
    some,
)
from tests.oracles import (
    INTERPRETERS,
    RATES,
    STEPS,
    adam,
    difference,
    momentum,
    optimizers,
    reference,
)

BACKWARD = ("residuals", "recompute")


def split(problem: Problem, make, interpreter, backward, **options):
    """The same 20 steps, split."""
    optimizer = optimizers(problem.topology, make)
    trainer = INTERPRETERS[interpreter](
        problem.topology, optimizer, backward=backward, **options
    )
    state, losses = trainer.init(jax.random.key(1), problem.batch), []
    for _ in range(STEPS):
        state, info = trainer.step(state, problem.batch)
        losses.append(info.loss)
    trees = (
        [t for p in state.parties.values() for t in getattr(p, kind).values()]
        for kind in ("params", "state")
    )
    params, statistics = (jsplit.merge(*ts) for ts in trees)
    return params, statistics, jnp.stack(losses)


def compare(configuration, kind, flax, make, ways) -> dict:
    """How far 20 split steps are from 20 whole ones, for each interpreter and backward
    mode in `ways`.
    """
    problem = make_problem(configuration, kind, flax)
    whole = reference(problem, make)
    return {
        way: max(map(difference, split(problem, make, *way), whole)) for way in ways
    }


Way = tuple[str, str]  # an interpreter, and what the backward pass has kept
WAYS: list[Way] = list(product(INTERPRETERS, BACKWARD))
WHOLES = list(product(CONFIGURATIONS, MODELS, FLAX))


def often(configuration: str, kind: str, flax: str) -> Way | None:
    """The way in which a whole model is always trained split, or none where its twin is.

    Of which Flax a model is, is forgotten once `split` has traced it: nothing after the
    jaxpr can tell. So of the two twins at most one is always run, and every other pair of
    configuration and model: each configuration has a dense or an attending model and a
    convolving one, in both kinds of Flax, each model three configurations, and each kind
    of Flax all four ways. All else is in the slow part.
    """
    at, model = CONFIGURATIONS.index(configuration), MODELS.index(kind)
    if (at + model) % 2 or flax != FLAX[(at // 2 + model // 2 + 1) % 2]:
        return None
    return WAYS[(at // 2 + model + 1) % len(WAYS)]


def sweep() -> list:
    """What is always run, one way of a point; then all that is left of every point."""
    first, rest = [], []
    for whole in WHOLES:
        way = often(*whole)
        if way:
            first.append(pytest.param(*whole, [way], id="-".join((*whole, *way))))
        left = [other for other in WAYS if other != way]
        name = "-".join((*whole, "rest" if way else "all"))
        rest.append(pytest.param(*whole, left, id=name, marks=pytest.mark.slow))
    return first + rest


# An embedding that is the output layer too, both at the client.
OFTEN = {"nnx": ("fused", "recompute"), "linen": ("messages", "residuals")}
TIED_ROWS = [
    pytest.param(
        *(TIED, "transformer", flax, [w for w in WAYS if (w == OFTEN[flax]) == daily]),
        id=f"{TIED}-{flax}-{'-'.join(OFTEN[flax]) if daily else 'rest'}",
        marks=() if daily else pytest.mark.slow,
    )
    for daily in (True, False)
    for flax in FLAX
]
# Adapters on a base that is frozen, told by a kind of variable, a predicate and a pattern.
ADAPTED_OFTEN = {
    "nnx": ("messages", "residuals"),
    "linen": ("fused", "residuals"),
    "function": ("messages", "recompute"),
}
ADAPTED_ROWS = [
    pytest.param(
        *(ADAPTED, "lora", flax, [w for w in WAYS if (w == often) == daily]),
        id=f"{ADAPTED}-{flax}-{'-'.join(often) if daily else 'rest'}",
        marks=() if daily and flax != "linen" else pytest.mark.slow,
    )
    for daily in (True, False)
    for flax, often in ADAPTED_OFTEN.items()
]
ROWS = sweep() + TIED_ROWS + ADAPTED_ROWS


@pytest.mark.parametrize(("configuration", "kind", "flax", "ways"), ROWS)
def test_split_training_is_whole_training(configuration, kind, flax, ways):
    """20 steps of SGD with momentum in float32: parameters, statistics and losses within 1e-5."""
    found = compare(configuration, kind, flax, momentum, ways)
    assert found.keys() == set(ways) and max(found.values()) < 1e-5, found


DOUBLE = [
    (*whole, [WAYS[(i + i // 8 + i // 2) % len(WAYS)]])
    if (i // 8 + i) % 8 == 2
    else pytest.param(*whole, WAYS[::3], marks=pytest.mark.slow)
    for i, whole in enumerate(WHOLES)
] + [
    (TIED, "transformer", "nnx", [("messages", "residuals")]),
    pytest.param(TIED, "transformer", "linen", WAYS, marks=pytest.mark.slow),
    (ADAPTED, "lora", "function", [("messages", "residuals")]),
    pytest.param(ADAPTED, "lora", "nnx", WAYS, marks=pytest.mark.slow),
    pytest.param(ADAPTED, "lora", "linen", WAYS, marks=pytest.mark.slow),
]


# Momentum is daily held to 1e-5 in float32; Adam, which divides by a root, only to 1e-3.
@pytest.mark.parametrize("make", [adam, pytest.param(momentum, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("configuration", "kind", "flax", "ways"), DOUBLE)
def test_split_training_is_whole_training_in_double_precision(
    configuration, kind, flax, ways, make
):
    """In float64 the same within 1e-9, with Adam too."""
    with jax.enable_x64(True):
        found = compare(configuration, kind, flax, make, ways)
        assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("configuration", some(CONFIGURATIONS, lambda i: i % 2))
def test_adam_in_float32_stays_as_close_as_measured(configuration):
    """Adam divides by the root of its second moment, so a rounding error in a gradient
    near zero can become a step.

    Where both programs round alike there is no difference at all; where not, 20 steps
    stayed within 1e-3.
    """
    assert (
        max(compare(configuration, "residual", "nnx", adam, WAYS[1:3]).values()) < 1e-3
    )


def test_the_comparison_sees_what_is_wrong():
    """Another key, one step fewer or exchanged optimizers are far outside the tolerance."""
    problem = make_problem("vanilla", "cnn", "nnx")
    whole = reference(problem, momentum)
    state = jsplit.fused(problem.topology, momentum(0.05)).init(
        jax.random.key(1), problem.batch
    )
    untrained = jsplit.merge(
        *(t for p in state.parties.values() for t in p.params.values())
    )
    assert difference(untrained, whole[0]) > 0.1
    exchanged = dict(
        zip(problem.topology.parties, map(momentum, RATES[1::-1]), strict=True)
    )
    trainer = jsplit.fused(problem.topology, exchanged)
    for seed in (1, 2):
        state, losses = trainer.init(jax.random.key(seed), problem.batch), []
        for _ in range(STEPS):
            state, info = trainer.step(state, problem.batch)
            losses.append(info.loss)
        assert difference(jnp.stack(losses), whole[2]) > 1e-3
