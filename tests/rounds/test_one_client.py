"""One client's model out of the state of many: by number or by name, in every algorithm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit import population, rounds
from tests.helpers import cross_entropy
from tests.oracles import difference

NAMES = ("north", "south", "west")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.low = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.high = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.high(jsplit.cut(nnx.relu(self.norm(self.low(x))), "smashed"))


RNG = np.random.default_rng(0)
FIELDS = {
    "x": RNG.normal(size=(12, 5)).astype("float32"),
    "label": RNG.integers(0, 3, 12).astype("int32"),
}
PEOPLE = population.grouped([NAMES[i % 3] for i in range(12)])
ALGORITHMS = {
    "turns": (lambda t: rounds.take_turns(t, "client"), False),
    "turns, own": (lambda t: rounds.take_turns(t, "client", handoff="none"), True),
    "parallel": (lambda t: rounds.parallel(t, "client"), True),
    "shared": (lambda t: rounds.parallel(t, "client", bottoms="shared"), False),
    "splitfed 1": (lambda t: rounds.splitfed(t, "client"), False),
    "splitfed 3": (lambda t: rounds.splitfed(t, "client", version=3), True),
    "fedavg": (rounds.fedavg, False),
    "statistics": (lambda t: rounds.fedavg(t, statistics="own"), True),
    "centralized": (rounds.centralized, False),
    "alone": (rounds.alone, True),
}


def topology():
    segments = jsplit.split(Net(nnx.Rngs(0)), FIELDS["x"])
    return jsplit.vanilla(*segments.values(), loss=cross_entropy)


def one_round(name, topology):
    trainer = jsplit.fused(topology, optax.adam(0.1))
    make, own = ALGORITHMS[name]
    who = PEOPLE.pooled() if name == "centralized" else PEOPLE
    algorithm, drawn = make(trainer), who.round(FIELDS, 0, batch=4)
    state, _ = algorithm.step(algorithm.init(0, drawn), drawn)
    return trainer, algorithm, state, own, who.names


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_whole_model_of_a_client_predicts_what_the_algorithm_does(name, tmp_path):
    given = topology()
    trainer, algorithm, state, own, names = one_round(name, given)
    x = {"x": FIELDS["x"]}
    if own:
        for read in (
            lambda: jsplit.variables(state),
            lambda: jsplit.export(given, state, x),
            lambda: algorithm.predict(state, x),
        ):
            with pytest.raises(ValueError, match="of its own at .*`client`.*`north`"):
                read()
    for number, client in enumerate(names):
        expected = algorithm.predict(state, x, client=client)["output"]
        assert np.array_equal(
            expected, algorithm.predict(state, x, client=number)["output"]
        )
        params, statistics = jsplit.variables(state, client=client)
        net = Net(nnx.Rngs(1))
        nnx.update(net, params)
        nnx.update(net, statistics)
        net.eval()
        assert difference(net(FIELDS["x"]), expected) < 1e-5
        # What was saved of one client is a trainer's state.
        jsplit.save(tmp_path / client, state, client=client)
        batch = {n: v[:4] for n, v in FIELDS.items()}
        restored = jsplit.restore(tmp_path / client, trainer.init(3, batch))
        assert difference(trainer.predict(restored, x)["output"], expected) == 0
        if number == 0:
            parts = jsplit.export(given, state, x, client=client)
            h = parts["client"]["smashed"].call(FIELDS["x"])
            assert difference(parts["server"]["output"].call(h), expected) < 1e-5
    if not own:
        given, first = jsplit.variables(state), jsplit.variables(state, client=0)
        assert difference(given, first) == 0


def test_a_client_s_state_outlasts_a_step_and_another_client_s_is_another():
    _, algorithm, state, _, _ = one_round("alone", topology())
    north, south = state.client("north"), state.client(1)
    assert (
        difference(north.parties["client"].params, south.parties["client"].params) > 0
    )
    algorithm.step(state, PEOPLE.round(FIELDS, 1, batch=4))
    assert all(not x.is_deleted() for x in jax.tree.leaves((north, south)))


def test_no_such_client_is_refused():
    trainer, algorithm, state, _, _ = one_round("alone", topology())
    for client in ("east", 3, -1, True, 1.0):
        with pytest.raises(
            ValueError, match="`client` must be one of 0 to 2, .*`north`"
        ):
            jsplit.variables(state, client=client)
    one = state.client(0)
    with pytest.raises(ValueError, match="`client` is for"):
        jsplit.variables(one, client=0)
    twice = population.Population(PEOPLE.records, ("a", "b", "a"))
    state = algorithm.init(0, twice.round(FIELDS, 0, batch=4))
    assert jsplit.variables(state, client="b")[0]
    with pytest.raises(ValueError, match="'a' is the name of 2 clients.* 0, 2"):
        jsplit.variables(state, client="a")


def test_clients_listed_in_another_order_are_refused_where_they_have_own_parts(
    tmp_path,
):
    _, algorithm, state, _, _ = one_round("alone", topology())
    order = [1, 2, 0]
    other = population.Population(
        tuple(PEOPLE.records[i] for i in order), tuple(PEOPLE.names[i] for i in order)
    )
    with pytest.raises(ValueError, match="another order.*`south`.*`north`"):
        algorithm.step(state, other.round(FIELDS, 1, batch=4))
    jsplit.save(tmp_path, state)
    like = algorithm.init(0, other.round(FIELDS, 0, batch=4))
    with pytest.raises(ValueError, match=r"client.npz lists .* another order"):
        jsplit.restore(tmp_path, like)


def test_a_state_of_many_clients_maps_copies_and_restores_with_its_names(tmp_path):
    _, algorithm, state, _, _ = one_round("alone", topology())
    copied = jax.tree.map(jnp.copy, state)
    assert copied.clients == state.clients and copied.clients.names == NAMES
    jsplit.save(tmp_path, state)
    fresh = algorithm.init(5, PEOPLE.round(FIELDS, 0, batch=4))
    restored = jsplit.restore(tmp_path, fresh)
    assert restored.clients.names == NAMES
    assert (
        difference(jsplit.variables(restored, "west"), jsplit.variables(state, "west"))
        == 0
    )
