"""A strength is a weight that changes without a new compilation, and else a constant."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party, population, rounds
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    small,
    train_in_memory,
)
from tests.training.common import INTERPRETERS, both, close

PAIR = small("pair")
STEPS = 3


def size(h):
    return jnp.mean(h**2, -1)


def nopeek(weight, **options):
    """The pair, whose client makes its activation small."""
    penalty = jsplit.Penalty("small", size, "client", ["h"], weight, **options)
    return PAIR.topology.add(penalty)


def strong(value=5.0, name="nopeek"):
    return jsplit.Strength(name, value)


def run(trainer, setting=None, steps=STEPS, batch=PAIR.batch):
    state, losses = trainer.init(3, batch), []
    if setting is not None:
        state = jsplit.set_hyperparams(state, setting)
    for _ in range(steps):
        state, info = trainer.step(state, batch)
        losses.append(info.loss)
    return state, [*losses, trainer.evaluate(state, batch).loss]


def same(found, expected):
    (state, losses), (other, others) = found, expected
    for name, own in state.parties.items():
        assert bits(own.params) == bits(other.parties[name].params), name
    assert bits(losses) == bits(others)


@both
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("value", [0.25, 5.0])
def test_a_strength_is_the_constant_bit_for_bit(interpreter, parts, value):
    make = INTERPRETERS[interpreter]
    made = [
        make(nopeek(w), optax.adam(0.1), microbatches=parts)
        for w in (value, strong(value), strong(77.0))
    ]
    constant, default = run(made[0]), run(made[1])
    same(default, constant)
    same(run(made[2], {"nopeek": value}), constant)
    # It is read: another number is another training.
    assert bits(run(made[1], {"nopeek": 2 * value})[1]) != bits(constant[1])


@both
def test_setting_a_strength_compiles_nothing_anew(interpreter):
    traced = []

    def counted(h):
        traced.append(1)
        return size(h)

    penalty = jsplit.Penalty("small", counted, "client", ["h"], strong())
    trainer = INTERPRETERS[interpreter](PAIR.topology.add(penalty), optax.sgd(0.1))
    state = trainer.init(3, PAIR.batch)
    state, _ = trainer.step(state, PAIR.batch)
    once, losses = len(traced), set()
    for value in (0.0, 1.0, 2.0, 5.0, 25.0):
        state = jsplit.set_hyperparams(state, {"nopeek": value})
        state, info = trainer.step(state, PAIR.batch)
        losses.add(float(info.loss))
    assert len(traced) == once and len(losses) == 5


def test_a_trade_off_curve_is_one_program_and_its_runs_one_by_one():
    curve, traced = jnp.array([0.0, 1.0, 2.0, 5.0, 25.0]), []
    trainer = jsplit.fused(nopeek(strong()), optax.adam(0.1))
    first = trainer.init(3, PAIR.batch)
    states = jax.tree.map(lambda x: jnp.stack([x] * len(curve)), first)
    states = jsplit.set_hyperparams(states, {"nopeek": curve})

    def one(state):
        traced.append(1)
        return trainer.step(state, PAIR.batch)

    step = jax.jit(jax.vmap(one))
    for _ in range(STEPS):
        states, infos = step(states)
    assert len(traced) == 1
    for i, value in enumerate(curve):
        alone = jsplit.set_hyperparams(first, {"nopeek": float(value)})
        for _ in range(STEPS):
            alone, info = trainer.step(alone, PAIR.batch)
        close(infos.loss[i], info.loss)
        close(
            jax.tree.map(lambda x, i=i: x[i], states.parties["client"].params),
            alone.parties["client"].params,
        )
    sizes = infos.losses["small"]
    assert (np.diff(sizes) < 0).all(), "the stronger, the smaller"


def test_a_strength_of_0_adds_nothing_and_stays_trained_for():
    plain = jsplit.fused(PAIR.topology, optax.adam(0.1))
    off = jsplit.fused(nopeek(strong(0.0)), optax.adam(0.1))
    same(run(off), run(plain))
    # Once it is set it trains: it was no metric.
    assert float(run(off, {"nopeek": 9.0})[1][-1]) != float(run(plain)[1][-1])


@both
def test_the_loss_that_optimizers_are_given_has_the_strength_in_it(interpreter):
    def seen():
        """Moves every parameter by the loss that it is given."""

        def update(updates, state, params=None, *, value, **_):
            return jax.tree.map(lambda x: jnp.full_like(x, -value), updates), state

        return jsplit.with_loss(
            optax.GradientTransformationExtraArgs(lambda params: (), update)
        )

    make = INTERPRETERS[interpreter]
    same(
        run(make(nopeek(strong(1.0)), seen()), {"nopeek": 4.0}),
        run(make(nopeek(4.0), seen())),
    )


def test_a_set_of_batches_is_summed_with_the_strength_that_is_set():
    trainer = jsplit.fused(nopeek(strong(1.0)), optax.sgd(0.1))
    state = jsplit.set_hyperparams(trainer.init(3, PAIR.batch), {"nopeek": 3.0})
    info = trainer.evaluate(state, [PAIR.batch, PAIR.batch])
    close(info.loss, info.losses["loss"] + 3 * info.losses["small"])


def drawn(number):
    people = population.grouped(["north"] * 4 + ["south"] * 4)
    return people.round(PAIR.batch, number, batch=2)


ALGORITHMS = {
    "turns": lambda t: rounds.take_turns(t, "client"),
    "alone": rounds.alone,
    "splitfed": lambda t: rounds.splitfed(t, "client"),
    "splitfed 2": lambda t: rounds.splitfed(t, "client", version=2),
    "at once": lambda t: rounds.splitfed(t, "client", moments="averaged", chunk=2),
    "parallel": lambda t: rounds.parallel(t, "client"),
    "shared": lambda t: rounds.parallel(t, "client", bottoms="shared"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_with_a_strength_are_those_with_the_constant(name):
    """Nor does any average change it."""
    found = []
    for weight in (5.3, strong(1.0)):
        trainer = jsplit.fused(nopeek(weight), optax.sgd(0.1))
        algorithm = ALGORITHMS[name](trainer)
        state, infos = algorithm.init(3, drawn(0)), []
        if weight != 5.3:
            state = jsplit.set_hyperparams(state, {"nopeek": 5.3})
        for number in range(2):
            state, info = algorithm.step(state, drawn(number))
            infos.append(info.loss)
        infos.append(algorithm.evaluate(state, drawn(0)).loss)
        found.append(([x.params for x in state.parties.values()], infos))
    assert bits(found[0][0]) == bits(found[1][0])
    close(found[0][1], found[1][1])
    assert (state.parties["client"].strengths["nopeek"] == np.float32(5.3)).all()


def test_clients_that_take_their_own_steps_may_have_strengths_of_their_own():
    trainer = jsplit.fused(nopeek(strong()), optax.sgd(0.1))
    algorithm = rounds.alone(trainer)
    state = algorithm.init(3, drawn(0))
    state = jsplit.set_hyperparams(state, {"nopeek": jnp.array([0.0, 20.0])})
    new, info = algorithm.step(state, drawn(0))
    total = (
        info.losses["loss"] + (info.each["small"] * np.array([0, 20])).mean()
    )  # clients of equal sizes
    close(info.loss, total)
    for k, value in enumerate((0.0, 20.0)):
        one = jsplit.set_hyperparams(algorithm.init(3, drawn(0)), {"nopeek": value})
        one, _ = algorithm.step(one, drawn(0))
        close(
            new.client(k).parties["client"].params,
            one.client(k).parties["client"].params,
        )
        assert new.client(k).parties["client"].strengths["nopeek"] == value


def test_clients_that_step_together_have_one_strength():
    algorithm = rounds.parallel(
        jsplit.fused(nopeek(strong()), optax.sgd(0.1)), "client"
    )
    state = algorithm.init(3, drawn(0))
    with pytest.raises(ValueError, match=r"`nopeek` of `client` .* shape \[\], got"):
        jsplit.set_hyperparams(state, {"nopeek": jnp.array([0.0, 20.0])})


@pytest.mark.parametrize("value", [0.0, 4.0])
def test_parties_of_an_agreement_have_the_value_that_is_written(value):
    problem = PAIR._replace(topology=nopeek(strong(value)))
    agreed = agreed_for(problem, steps=STEPS)
    entry = agreed.said["losses"][1]
    assert (entry["weight"], entry["strength"]) == (value, "nopeek")
    results = checked(train_in_memory(agreed, problem))
    trainer = jsplit.messages(
        problem.topology,
        dict(
            zip(("client", "server"), (optax.adam(0.01), optax.adam(0.02)), strict=True)
        ),
    )
    state, _ = run(trainer)
    for name, own in state.parties.items():
        assert bits(results[name].state) == bits(own), name
    # And an agreement without any is the text that it always was.
    assert "strength" not in agreed_for(PAIR).said["losses"][0]


def test_a_strength_is_saved_and_restored(tmp_path):
    trainer = jsplit.fused(nopeek(strong()), optax.sgd(0.1))
    first = trainer.init(3, PAIR.batch)
    jsplit.save(tmp_path, jsplit.set_hyperparams(first, {"nopeek": 2.5}))
    assert jsplit.restore(tmp_path, first).parties["client"].strengths["nopeek"] == 2.5


def test_a_file_of_a_number_gets_the_strength_of_the_code(tmp_path):
    plain = jsplit.fused(nopeek(2.0), optax.sgd(0.1))
    trainer = jsplit.fused(nopeek(strong(7.0)), optax.sgd(0.1))
    jsplit.save(tmp_path, plain.init(3, PAIR.batch))
    like = trainer.init(4, PAIR.batch)
    state = jsplit.restore(tmp_path, like)
    assert state.parties["client"].strengths["nopeek"] == 7.0
    close(
        state.parties["client"].params,
        plain.init(3, PAIR.batch).parties["client"].params,
    )
    # The other way nothing that was set is dropped in silence.
    jsplit.save(tmp_path, like)
    with pytest.raises(ValueError, match="another model: it has `strengths/nopeek`"):
        jsplit.restore(tmp_path, plain.init(3, PAIR.batch))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1e39, "5", True, None])
def test_no_strength_is_negative_or_no_finite_number(value):
    state = jsplit.fused(nopeek(strong()), optax.sgd(0.1)).init(3, PAIR.batch)
    with pytest.raises(ValueError, match="strength `nopeek`: `value` must be finite"):
        jsplit.Strength("nopeek", value)
    with pytest.raises(ValueError, match="strength `nopeek` of `client` must be a num"):
        jsplit.set_hyperparams(state, {"nopeek": value})


def test_what_is_ambiguous_of_strengths_is_refused():
    two = nopeek(strong(1.0)).add(
        jsplit.Penalty("again", size, "client", ["h"], strong(2.0))
    )
    with pytest.raises(
        ValueError, match="`nopeek` of `client` has two values, 1.0 and"
    ):
        jsplit.fused(two, optax.sgd(0.1))
    sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    trainer = jsplit.fused(nopeek(strong(name="learning_rate")), sgd)
    state = trainer.init(3, PAIR.batch)
    with pytest.raises(
        ValueError, match="`learning_rate`, which is a hyperparameter of"
    ):
        jsplit.set_hyperparams(state, {"learning_rate": 0.1})
    # Of a party that has one of the two it is clear.
    state = jsplit.set_hyperparams(state, {"learning_rate": 0.5}, party="server")
    assert state.parties["client"].strengths["learning_rate"] == 5.0
    with pytest.raises(ValueError, match="there is learning_rate. Make"):
        jsplit.set_hyperparams(state, {"nopeek": 0.1})
    with pytest.raises(ValueError, match="`name` must be a name"):
        jsplit.Strength("", 1.0)
    plain = jsplit.fused(PAIR.topology, sgd).init(3, PAIR.batch)
    with pytest.raises(ValueError, match="of another trainer: it has the strengths"):
        trainer.step(plain, PAIR.batch)


def test_one_name_at_two_parties_is_a_number_at_each():
    topology = nopeek(strong(1.0)).add(
        jsplit.Penalty("flat", size, "server", ["y"], strong(2.0))
    )
    state = jsplit.fused(topology, optax.sgd(0.1)).init(3, PAIR.batch)
    new = jsplit.set_hyperparams(state, {"nopeek": 4.0}, party="server")
    assert [p.strengths["nopeek"] for p in new.parties.values()] == [1.0, 4.0]
    both = jsplit.set_hyperparams(state, {"nopeek": 4.0})
    assert [p.strengths["nopeek"] for p in both.parties.values()] == [4.0, 4.0]


def test_a_trainer_without_strengths_has_none():
    state = jsplit.fused(PAIR.topology, optax.sgd(0.1)).init(3, PAIR.batch)
    assert all(not own.strengths for own in state.parties.values())
    own = state.parties["client"]
    assert party.Result(own, 0).state.strengths == {}
