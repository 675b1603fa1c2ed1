"""Rates by round: schedules count on and rates set by hand hold, in every algorithm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from jsplit.rounds.restarts import starts_anew
from tests.oracles import difference
from tests.rounds.common import people

LOW = jsplit.segment(
    lambda p, record: record @ p,
    init=lambda key, record: jnp.ones((3, 2)) * 0.5,
    inputs="record",
    name="smashed",
)
TOP = jsplit.segment(
    lambda p, smashed: smashed @ p,
    init=lambda key, smashed: jnp.ones(2) * 0.5,
    inputs="smashed",
    name="output",
)
TOPOLOGY = jsplit.vanilla(LOW, TOP, loss=lambda output, label: (output - label) ** 2)
RNG = np.random.default_rng(0)
FIELDS = {
    "record": RNG.normal(size=(12, 3)).astype("float32"),
    "label": RNG.normal(size=12).astype("float32"),
}
ALGORITHMS = {
    "turns": lambda t: rounds.take_turns(t, "client"),
    "turns, own bottoms": lambda t: rounds.take_turns(t, "client", handoff="none"),
    "parallel": lambda t: rounds.parallel(t, "client"),
    "parallel, shared": lambda t: rounds.parallel(t, "client", bottoms="shared"),
    "splitfed 1": lambda t: rounds.splitfed(t, "client"),
    "splitfed 2": lambda t: rounds.splitfed(t, "client", version=2),
    "splitfed 3": lambda t: rounds.splitfed(t, "client", version=3),
    "splitfed averaged": lambda t: rounds.splitfed(t, "client", moments="averaged"),
    "splitfed own": lambda t: rounds.splitfed(t, "client", moments="own"),
    "fedavg": rounds.fedavg,
    "large batch": rounds.large_batch_sgd,
    "centralized": rounds.centralized,
    "alone": rounds.alone,
}


def rounds_of(name, count, sizes=(8, 4), **how):
    who = people(list(sizes))
    if name == "centralized":
        who = who.pooled()
    return [who.round(FIELDS, i, **{"batch": 4, **how}) for i in range(count)]


def params_of(state):
    """Copies, which outlast the next step."""
    return {p: jax.tree.map(np.array, own.params) for p, own in state.parties.items()}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_rate_set_between_rounds_is_that_of_the_next_round(name):
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    algorithm = ALGORITHMS[name](jsplit.fused(TOPOLOGY, adam))
    drawn = rounds_of(name, 3)
    state, _ = algorithm.step(algorithm.init(0, drawn[0]), drawn[0])
    before = params_of(state)
    state = jsplit.set_hyperparams(state, {"learning_rate": 0.0})
    state, _ = algorithm.step(state, drawn[1])
    assert difference(params_of(state), before) == 0
    state = jsplit.set_hyperparams(state, {"learning_rate": 0.3}, party="server")
    state, _ = algorithm.step(state, drawn[2])
    rates = state.parties["server"].optimizer.hyperparams["learning_rate"]
    # What no client changes is not rounded by an average either.
    assert np.all(rates == np.float32(0.3))
    assert difference(state.parties["server"].params, before["server"]) > 1e-3
    assert difference(state.parties["client"].params, before["client"]) == 0


def test_each_client_of_its_own_and_each_run_of_a_sweep_may_have_a_rate_of_its_own():
    sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    algorithm = ALGORITHMS["splitfed 3"](jsplit.fused(TOPOLOGY, sgd))
    (drawn,) = rounds_of("splitfed 3", 1)
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(lambda key: algorithm.init(key, drawn))(keys)
    rates = {"learning_rate": jnp.array([0.0, 0.1, 0.2])}
    states = jsplit.set_hyperparams(states, rates)
    states, infos = jax.vmap(lambda state: algorithm.step(state, drawn))(states)
    for i, rate in enumerate(rates["learning_rate"]):
        state = algorithm.init(i, drawn)
        state = jsplit.set_hyperparams(state, {"learning_rate": rate})
        state, info = algorithm.step(state, drawn)
        assert abs(info.loss - infos.loss[i]) < 1e-6
        for party, own in state.parties.items():
            assert difference(own.params, _row(states.parties[party].params, i)) < 1e-6

    state, before = algorithm.init(0, drawn), params_of(algorithm.init(0, drawn))
    each = {"learning_rate": [0.0, 0.1]}
    state, _ = algorithm.step(
        jsplit.set_hyperparams(state, each, party="client"), drawn
    )
    after = params_of(state)["client"]
    moved = [difference(_row(after, k), _row(before["client"], k)) for k in range(2)]
    assert moved[0] == 0 and moved[1] > 1e-3


def _row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_schedule_goes_on_from_round_to_round(name):
    """It is 0 from the fourth step on, so the third round moves nothing."""
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.0})
    algorithm = ALGORITHMS[name](jsplit.fused(TOPOLOGY, optax.adam(rate)))
    drawn = rounds_of(name, 4, sizes=(6, 6), batch=3)  # two steps for each client
    state, moved = algorithm.init(0, drawn[0]), []
    for r in drawn:
        before = params_of(state)
        state, _ = algorithm.step(state, r)
        moved.append(difference(params_of(state), before))
    assert moved[0] > 1e-3
    assert moved[2] == moved[3] == 0


def test_fresh_moments_with_a_schedule_are_local_adam_with_a_common_count():
    """The closed form: in round r a client runs Adam from zero moments with the rates
    of the steps from N on, where N is the sum of the most steps of the rounds before.
    """
    rate = optax.exponential_decay(0.1, 1, 0.8)
    trainer = jsplit.fused(TOPOLOGY, optax.adam(rate))
    drawn = rounds_of("fedavg", 3)
    state = rounds.fedavg(trainer).init(0, drawn[0])
    weights = {"smashed": np.full((3, 2), 0.5), "output": np.full(2, 0.5)}
    weights = jax.tree.map(jnp.float32, weights)
    begun = 0

    def loss(w, record, label):
        return jnp.mean((record @ w["smashed"] @ w["output"] - label) ** 2)

    for r in drawn:
        found = []
        for k in range(2):
            mine = weights
            optimizer = optax.adam(lambda count, begun=begun: rate(count + begun))
            memory = optimizer.init(mine)
            for s in range(r.steps[k]):
                read = r.reads[k, s]
                gradient = jax.grad(loss)(
                    mine, FIELDS["record"][read], FIELDS["label"][read]
                )
                updates, memory = optimizer.update(gradient, memory, mine)
                mine = optax.apply_updates(mine, updates)
            found.append(mine)
        weights = jax.tree.map(lambda a, b: (8 * a + 4 * b) / 12, *found)
        begun += int(r.steps.max())
        state, _ = rounds.fedavg(trainer).step(state, r)
        adam, schedule = state.parties["server"].optimizer
        assert int(adam.count) == 0 and int(schedule.count) == begun
    assert (
        difference(state.parties["client"].params["smashed"], weights["smashed"]) < 1e-5
    )
    assert (
        difference(state.parties["server"].params["output"], weights["output"]) < 1e-5
    )


def anew(optimizer, params=None):
    """By path, whether a leaf of the state starts anew."""
    params = params or {"n": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
    leaves = jax.tree_util.tree_leaves_with_path(optimizer.init(params))
    flags = starts_anew(optimizer, params, "server")
    return {
        jax.tree_util.keystr(path): flag
        for (path, _), flag in zip(leaves, flags, strict=True)
    }


def test_moments_start_anew_with_their_counts_and_all_else_goes_on():
    adamw = optax.inject_hyperparams(optax.adamw)(lambda count: 0.1, weight_decay=0.1)
    found = anew(adamw)
    assert all(flag == ("inner_state[0]" in path) for path, flag in found.items())

    labels = {"n": {"w": "n", "b": "rest"}}  # a label that is the name of a node
    adam, sgd = optax.adam(optax.constant_schedule(0.1)), optax.sgd(lambda count: 0.1)
    several = anew(optax.multi_transform({"n": adam, "rest": sgd}, labels))
    assert all(flag == ("inner_state[0]" in path) for path, flag in several.items())
    assert len(set(several.values())) == 2
    bare = optax.multi_transform({"n": adam}, {"n": "n"})
    several = anew(bare, {"n": jnp.ones(3)})
    assert all(flag == ("inner_state[0]" in path) for path, flag in several.items())

    # One vector of all parameters follows their shapes, though not at their paths.
    flat = anew(optax.flatten(optax.adam(0.1)))
    assert flat and all(flat.values())
    many = optax.MultiSteps(optax.adam(lambda count: 0.1), 2)
    found = anew(many.gradient_transformation())
    assert [path for path, flag in found.items() if not flag] == [
        ".inner_opt_state[1].count"
    ]
    plateau = anew(optax.contrib.reduce_on_plateau())
    assert plateau and not any(plateau.values())
    factored = anew(optax.scale_by_factored_rms(min_dim_size_to_factor=2))
    assert factored and all(factored.values())
    late = anew(jsplit.stale(optax.sgd(lambda count: 0.1), 2))
    assert [path for path, flag in late.items() if not flag] == [".inner[1].count"]


def test_a_count_that_could_be_of_moments_or_not_is_refused():
    class Moments(NamedTuple):
        count: jax.Array
        both: tuple

    odd = optax.GradientTransformation(
        lambda params: Moments(jnp.int32(0), (params, params)),
        lambda updates, state, params=None: (updates, state),
    )
    algorithm = rounds.fedavg(jsplit.fused(TOPOLOGY, odd))
    with pytest.raises(ValueError, match=r'"fresh".*\.count.*`client`.*"own"'):
        algorithm.init(0, rounds_of("fedavg", 1)[0])
    plain = optax.GradientTransformation(
        lambda params: (jnp.int32(0), params),
        lambda updates, state, params=None: (updates, state),
    )
    assert all(anew(optax.chain(plain, optax.sgd(0.1))).values())


def test_a_hyperparameter_that_would_not_act_is_refused():
    trainer = jsplit.fused(TOPOLOGY, optax.inject_hyperparams(optax.sgd)(lambda c: 0.1))
    state = trainer.init(0, FIELDS)
    with pytest.raises(ValueError, match="`learning_rate`.*schedule"):
        jsplit.set_hyperparams(state, {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="`rate`.*learning_rate"):
        jsplit.set_hyperparams(state, {"rate": 0.1})
    with pytest.raises(ValueError, match="`party`"):
        jsplit.set_hyperparams(state, {"learning_rate": 0.1}, party="nobody")
    number = jsplit.fused(TOPOLOGY, optax.inject_hyperparams(optax.sgd)(0.1))
    state = number.init(0, FIELDS)
    with pytest.raises(ValueError, match=r"of `client` .* shape \[\], got shape \[2\]"):
        jsplit.set_hyperparams(state, {"learning_rate": [0.1, 0.2]})
    algorithm, (drawn,) = rounds.alone(number), rounds_of("alone", 1)
    many = algorithm.init(0, drawn)
    many.parties["client"].optimizer.hyperparams["learning_rate"] = jnp.float32(0)
    with pytest.raises(ValueError, match="one number where each client has its own"):
        algorithm.step(many, drawn)
    plain = jsplit.fused(TOPOLOGY, optax.sgd(0.1)).init(0, FIELDS)
    with pytest.raises(ValueError, match="inject_hyperparams"):
        jsplit.set_hyperparams(plain, {"learning_rate": 0.1})
