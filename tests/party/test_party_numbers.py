"""Over a network too: norms and the loss are exchanged, weights count, NaN is met."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.contract.record_order import Records
from tests.helpers import CONFIGURATIONS, make_problem
from tests.oracles import difference
from tests.party.federation import (
    IDS_KEY,
    agreed_for,
    bits,
    checked,
    layer,
    own_of,
    small,
    together,
    train_in_memory,
)
from tests.training.common import NORM, clipped, reference

STEPS = 4


def in_one_process(problem, rates, batch=None, weight=None, **options):
    batch = problem.batch if batch is None else batch
    trainer = jsplit.messages(problem.topology, rates, **options)
    state = trainer.init(jax.random.key(3), batch)
    for _ in range(STEPS):
        state, _ = trainer.step(state, batch, weight)
    return state.parties


def owners(problem):
    return {n.party for n in problem.topology.segments if n.segment.trainable}


@pytest.mark.parametrize("configuration", ["pair", "chain"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_parties_clip_by_the_norm_of_all(configuration, microbatches):
    problem = small(configuration)
    clipped = optax.chain(jsplit.clip_by_global_norm(0.05), optax.adam(0.01))
    rates = dict.fromkeys(owners(problem), clipped)
    agreed = agreed_for(
        problem, steps=STEPS, microbatches=microbatches, norms=["global norm"]
    )
    kinds = [wire.kind for wire in agreed.wires]
    assert kinds.count("scalar") == 2 * (len(agreed.parties) - 1)
    results = checked(train_in_memory(agreed, problem, rates))
    for name, state in in_one_process(
        problem, rates, microbatches=microbatches
    ).items():
        assert bits(results[name].state) == bits(state), name


def clipped_parties(configuration):
    """How far parties that clip by the norm of all come from the whole model."""
    problem = make_problem(configuration, "mlp", "linen")
    expected, *_ = reference(problem, clipped(optax.clip_by_global_norm(NORM)), STEPS)
    agreed = agreed_for(problem, steps=STEPS, norms=["global norm"])
    rate = clipped(jsplit.clip_by_global_norm(NORM))
    results = checked(
        train_in_memory(agreed, problem, dict.fromkeys(owners(problem), rate))
    )
    states = [result.state.params for result in results.values()]
    return difference(jsplit.merge(*[t for s in states for t in s.values()]), expected)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_parties_that_clip_by_the_norm_of_all_train_as_the_whole_model_does(
    configuration,
):
    assert clipped_parties(configuration) < 1e-5


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_parties_clip_as_the_whole_model_does_in_double_precision(configuration):
    # For all threads: `jax.enable_x64` is of one.
    jax.config.update("jax_enable_x64", True)
    try:
        assert clipped_parties(configuration) < 1e-9
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.filterwarnings("ignore:`optimizer` of .* computes the update")
def test_a_party_that_asks_for_the_loss_is_sent_it():
    problem = small("pair")
    first, second = problem.topology.parties
    polyak = jsplit.with_loss(optax.polyak_sgd(0.1))
    rates = {first: polyak, second: optax.sgd(0.1)}
    agreed = agreed_for(problem, steps=STEPS, wants_loss=[first])
    results = checked(train_in_memory(agreed, problem, rates))
    for name, state in in_one_process(problem, rates).items():
        assert bits(results[name].state) == bits(state), name


def test_optimizers_exchange_what_was_agreed():
    problem = small("pair")
    clipped = optax.chain(jsplit.clip_by_global_norm(0.05), optax.sgd(0.1))
    name = problem.topology.parties[0]

    def run(agreed, optimizer):
        return party.run(
            agreed,
            name,
            problem.topology,
            own_of(problem, name),
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optimizer,
        )

    with pytest.raises(ValueError, match=r"`norms` \[\]"):
        run(agreed_for(problem), clipped)
    with pytest.raises(ValueError, match="the agreement has `norms`"):
        run(agreed_for(problem, norms=["global norm"]), optax.sgd(0.1))
    with pytest.raises(ValueError, match="`wants_loss`"):
        run(agreed_for(problem), jsplit.with_loss(optax.sgd(0.1)))
    with pytest.raises(ValueError, match="does not go with `norms`"):
        agreed_for(problem, norms=["global norm"], staleness=1)
    with pytest.raises(ValueError, match="does not go with `nonfinite`"):
        agreed_for(problem, nonfinite="skip", staleness=1)
    with pytest.raises(ValueError, match="is a field"):
        agreed_for(problem, weight=problem.topology.fields[0])


WEIGHT = np.array([1, 0, 2, 1, 0, 1, 1, 3], np.float32)


def spoilt(problem):
    """Every field of a record of weight 0 is NaN."""
    found = {}
    for name, x in problem.batch.items():
        x = np.array(x)
        if np.issubdtype(x.dtype, np.floating):
            x[WEIGHT == 0] = np.nan
        found[name] = x
    return found


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_record_of_weight_0_is_left_out_at_all_parties(microbatches):
    problem = small("vertical")
    assert len(next(iter(problem.batch.values()))) == len(WEIGHT)
    rates = dict.fromkeys(owners(problem), optax.sgd(0.1, 0.9))

    def data(problem, name):
        held = problem.topology.holds.get(name, ())
        own = {f: x for f, x in spoilt(problem).items() if f in held}
        return own | {"counts": WEIGHT}

    agreed = agreed_for(
        problem, steps=STEPS, microbatches=microbatches, weight="counts"
    )
    results = checked(train_in_memory(agreed, problem, rates, data))
    expected = in_one_process(problem, rates, weight=WEIGHT, microbatches=microbatches)
    plain = in_one_process(problem, rates, microbatches=microbatches)
    for name, state in expected.items():
        assert bits(results[name].state) == bits(state), name
    assert any(bits(plain[n]) != bits(expected[n]) for n in plain)


def test_a_step_after_which_anybody_keeps_nan_is_left_out_by_all():
    problem = small("pair")
    rates = dict.fromkeys(owners(problem), optax.adam(0.01))
    agreed = agreed_for(problem, steps=STEPS, nonfinite="skip")
    bad = {n: np.full_like(x, np.nan) for n, x in problem.batch.items()}

    def data(problem, name):
        held = problem.topology.holds.get(name, ())
        return lambda step: {f: (bad if step == 1 else problem.batch)[f] for f in held}

    results = checked(train_in_memory(agreed, problem, rates, data))
    trainer = jsplit.messages(problem.topology, rates, nonfinite="skip")
    state = trainer.init(jax.random.key(3), problem.batch)
    for step in range(STEPS):
        state, info = trainer.step(state, bad if step == 1 else problem.batch)
        assert info.finite is not None and bool(info.finite.all()) == (step != 1)
    for name, own in state.parties.items():
        assert bits(results[name].state) == bits(own), name


def test_a_party_that_would_keep_nan_ends_the_run_and_says_so_to_all():
    problem = small("pair")
    first, second = problem.topology.parties
    # What crosses is finite; what the first party makes of it is not.
    rates = {first: optax.scale(np.inf), second: optax.sgd(0.1)}
    agreed = agreed_for(problem, steps=STEPS)
    found = train_in_memory(agreed, problem, rates)
    assert isinstance(found[first], jsplit.NotFinite)
    assert "parameters of" in str(found[first])
    assert isinstance(found[second], party.Refused)
    assert f"`{first}` says" in str(found[second]) and "step 1" in str(found[second])


def test_parties_keep_one_dynamic_loss_scale():
    problem = small("pair")
    rates = dict.fromkeys(owners(problem), optax.adam(0.01))
    scale = jsplit.DynamicScale(interval=2)
    agreed = agreed_for(problem, steps=STEPS, nonfinite="skip", loss_scale=scale)
    results = checked(train_in_memory(agreed, problem, rates))
    expected = in_one_process(problem, rates, loss_scale=scale)
    kept = set()
    for name, state in expected.items():
        assert bits(results[name].state) == bits(state), name
        kept.add(float(state.links["loss scale"].scale))
    # Nothing overflowed, so it has doubled twice.
    assert kept == {4 * scale.initial}
    with pytest.raises(ValueError, match="'skip' where `loss_scale` is dynamic"):
        agreed_for(problem, loss_scale=scale)


@pytest.mark.parametrize("wrong", [-np.ones(8), np.ones((8, 1)), np.full(8, np.nan)])
def test_weights_of_a_function_are_looked_at_in_every_step(wrong):
    problem = small("pair")
    rates = dict.fromkeys(owners(problem), optax.sgd(0.1))
    agreed = agreed_for(problem, steps=2, weight="counts", patience=2.0)

    def data(problem, name):
        return own_of(problem, name) | {"counts": wrong}

    found = train_in_memory(agreed, problem, rates, data)
    assert all(isinstance(x, Exception) for x in found.values())
    assert any("`counts` of `data`" in str(x) for x in found.values()), found


@pytest.mark.parametrize("said", [True, False])
def test_an_evaluation_counts_records_by_their_weights_and_alike_without(said):
    problem = small("pair")
    transport, counts = party.MemoryTransport(), WEIGHT if said else np.ones(8)
    agreed = agreed_for(problem, weight="counts")
    trainer = jsplit.messages(problem.topology, optax.sgd(0.1))
    state = trainer.init(jax.random.key(3), problem.batch)

    def one(name):
        return party.evaluate(
            agreed,
            name,
            problem.topology,
            own_of(problem, name) | ({"counts": counts} if said else {}),
            records=8,
            ids_key=IDS_KEY,
            state=state.parties[name],
            credentials=party.PlaintextWithoutIdentity(name),
            transport=transport,
        )

    results = checked(together(agreed.parties, one))
    expected = trainer.evaluate(state, problem.batch, counts).loss
    [found] = [x for r in results.values() for x in r.losses.values()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_norm_whose_square_is_infinite_clips_over_a_network_as_in_one_process():
    """Gradients of 1e20 are finite, and the square of their norm is not."""
    problem = small("pair")
    loss = lambda y, label: jnp.abs(y - label) * 1e20  # noqa: E731
    bottom, top = layer(["x"], "h"), layer(["h"], "y", 1)
    problem = problem._replace(topology=jsplit.vanilla(bottom, top, loss=loss))
    rate = optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(0.1))
    rates = dict.fromkeys(owners(problem), rate)
    agreed = agreed_for(problem, steps=STEPS, norms=["global norm"])
    results = checked(train_in_memory(agreed, problem, rates))
    for name, state in in_one_process(problem, rates).items():
        assert bits(results[name].state) == bits(state), name


def sequences():
    """A pair whose records are of 5 time steps, each with a label, and how much these count."""
    rng = np.random.default_rng(1)
    squares = lambda y, label: (y[..., 0] - label) ** 2  # noqa: E731
    problem = small("pair")
    batch = {
        "x": rng.normal(size=(8, 5, 3)).astype(np.float32),
        "label": rng.normal(size=(8, 5)).astype(np.float32),
    }
    bottom, top = layer(["x"], "h"), layer(["h"], "y", 1)
    problem = problem._replace(
        topology=jsplit.vanilla(bottom, top, loss=squares), batch=batch
    )
    lengths = np.array([5, 1, 3, 2, 0, 4, 1, 5])[:, None]
    return problem, (np.arange(5) < lengths).astype(np.float32)


def test_entries_of_records_count_over_a_network_as_in_one_process():
    problem, mask = sequences()
    rates = dict.fromkeys(owners(problem), optax.sgd(0.1, 0.9))
    agreed = agreed_for(problem, steps=STEPS, microbatches=2, weight="counts")

    def data(problem, name):
        return own_of(problem, name) | {"counts": mask}

    results = checked(train_in_memory(agreed, problem, rates, data))
    expected = in_one_process(problem, rates, weight=mask, microbatches=2)
    plain = in_one_process(problem, rates, microbatches=2)
    for name, state in expected.items():
        assert bits(results[name].state) == bits(state), name
        assert bits(plain[name]) != bits(state)

    transport = party.MemoryTransport()
    # Batches of 3, 3 and 2 records, of 9, 6 and 6 time steps that count.
    few = {n: x[:3] for n, x in problem.batch.items()}
    agreed = agreed_for(problem._replace(batch=few), weight="counts")

    def one(name):
        return party.evaluate(
            agreed,
            name,
            problem.topology,
            data(problem, name),
            records=8,
            ids_key=IDS_KEY,
            state=expected[name],
            credentials=party.PlaintextWithoutIdentity(name),
            transport=transport,
        )

    results = checked(together(agreed.parties, one))
    trainer = jsplit.messages(problem.topology, optax.sgd(0.1))
    whole = trainer.evaluate(jsplit.TrainState(expected), problem.batch, mask).loss
    [found] = [x for r in results.values() for x in r.losses.values()]
    np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_weights_of_other_entries_are_other_weights():
    mask = np.ones((4, 6), np.float32)
    found = {
        Records({"c": w}, weight="c", key=IDS_KEY).digest
        for w in (mask, mask.astype(np.int8), mask.reshape(4, 2, 3), mask[:, 0])
    }
    assert len(found) == 3
