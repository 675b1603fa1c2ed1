"""Every defence switched off is the plain run, and on it is the same in every interpreter."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jsplit
from jsplit import party
from jsplit.privacy import gaussian, isotropic, laplace, marvell, max_norm
from tests.party.federation import Small as Problem
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    layer,
    optimizers,
    own_of,
    together,
)
from tests.privacy.defended import (
    ALGORITHMS,
    BATCH,
    INTERPRETERS,
    PEOPLE,
    equal,
    parameters,
    trained,
    trainer,
)


def of(x):
    """Links by defence, with a number or a strength for what can be switched off."""
    # The norm is beyond that of any activation of five numbers in [-1, 1].
    return {
        "gaussian": (gaussian(12.0, x), None),
        "laplace": (laplace(12.0, x), None),
        "marvell": (None, marvell(x)),
        "max_norm": (None, max_norm(x)),
        "isotropic": (None, isotropic(x)),
    }


every = pytest.mark.parametrize("name", of(0))
both = pytest.mark.parametrize("interpreter", INTERPRETERS)


@both
@every
def test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all(
    name, interpreter
):
    make = INTERPRETERS[interpreter]
    plain = parameters(trained(trainer(make)))
    link = of(jsplit.Strength("defence", 0.5))[name]
    traces = []

    def counted(one):
        def encode(*given):
            traces.append(1)
            return one.encode(*given)

        return one and one._replace(encode=encode)

    one = trainer(make, {"h": tuple(map(counted, link))})
    assert not equal(parameters(trained(one)), plain)
    before = len(traces)
    assert equal(parameters(trained(one, strengths={"defence": 0.0})), plain)
    assert not equal(parameters(trained(one, strengths={"defence": 2.0})), plain)
    assert len(traces) == before
    # A number that never changes is the same.
    assert equal(parameters(trained(trainer(make, {"h": of(0)[name]}))), plain)


@every
def test_fused_and_messages_draw_the_same_noise(name):
    fused, messages = (
        parameters(trained(trainer(make, {"h": of(0.5)[name]})))
        for make in INTERPRETERS.values()
    )
    for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(messages), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@every
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not(name, algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=8)

    def after(links, strengths=None):
        made = ALGORITHMS[algorithm](trainer(jsplit.fused, links))
        state = made.init(0, drawn)
        if strengths:
            state = jsplit.set_hyperparams(state, strengths)
        return parameters(made.step(state, drawn)[0])

    link = {"h": of(jsplit.Strength("defence", 0.5))[name]}
    plain, off, on = after(None), after(link, {"defence": 0.0}), after(link)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(off), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not equal(on, plain)


@every
def test_over_the_network_it_is_the_run_in_one_process(name):
    topology = jsplit.vanilla(
        layer(["x"], "h"), layer(["h"], "y", 1), loss=lambda y, label: (y - label) ** 2
    )
    batch = {"x": BATCH["x"][:8, :3], "label": np.array([[0], [1.0]] * 4, np.float32)}
    problem = Problem(topology, batch)
    link = of(0.5)[name]
    names = [one and "defence" for one in link]
    agreed = agreed_for(problem, steps=3, links={"h": names})
    made = {"defence": next(one for one in link if one)}
    hub = party.MemoryTransport()

    def one(who):
        return party.run(
            agreed,
            who,
            topology,
            lambda step: own_of(problem, who),
            credentials=party.PlaintextWithoutIdentity(who),
            optimizer=optimizers(topology)[who],
            links=made,
            remind=0.2,
            transport=hub,
        )

    results = checked(together(agreed.parties, one))
    secrets = {
        p: r.state.secret for p, r in results.items() if r.state.secret is not None
    }
    assert len(secrets) == 1
    messages = jsplit.messages(topology, optimizers(topology), links={"h": link})
    state = jsplit.with_secrets(messages.init(3, batch), secrets)
    for _ in range(3):
        state, _ = messages.step(state, batch)
    for p, own in state.parties.items():
        assert bits(results[p].state) == bits(own), p


def test_over_the_network_marvell_refuses_more_than_two_classes_before_it_connects():
    topology = jsplit.vanilla(
        layer(["x"], "h"), layer(["h"], "y", 1), loss=lambda y, label: (y - label) ** 2
    )
    label = np.arange(8, dtype=np.float32)[:, None] % 3
    problem = Problem(topology, {"x": BATCH["x"][:8, :3], "label": label})
    agreed = agreed_for(problem, steps=3, links={"h": [None, "defence"]})
    with pytest.raises(ValueError, match="beside it there are 2 numbers in `label`"):
        party.run(
            agreed,
            "server",
            topology,
            {"label": label},
            credentials=party.PlaintextWithoutIdentity("server"),
            optimizer=optimizers(topology)["server"],
            links={"defence": marvell(1.0)},
            transport=party.MemoryTransport(),
        )
