"""Steps that overlap: one order of all turns for all parties, and the same numbers as
when one thread takes them in it.
"""

from __future__ import annotations

import threading
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.compute.pipeline import held, lateness, order
from jsplit.training.executor import CompiledWalk, jitted
from jsplit.training.kinds import PERSISTENT
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.update import update_ops
from jsplit.training.walk import Name, turns
from tests.helpers import make_problem
from tests.party import federation
from tests.party.federation import Others, agreed_for, bits, checked, small, trust_of


def batch_of(problem, step):
    """Another batch in every step."""
    return {f: np.roll(x, step, 0) for f, x in problem.batch.items()}


def in_one_thread(problem, optimizers, staleness, steps, every, **options):
    """All turns of all parties in the order of the definition; the losses of every
    step, and the last state.
    """
    trainer = jsplit.messages(problem.topology, optimizers, **options)
    config, places = trainer.config, layout_of(trainer.config)
    ops = held([*training_ops(config), *update_ops(config)])
    losses = [Name(x.party, "loss", x.name) for x in problem.topology.losses]
    lasting = {w for op in ops for w in op.writes if w.kind in PERSISTENT} - {
        at.step for at in places.values()
    }
    keep = [*losses, *lasting]
    walk = CompiledWalk(turns(ops, keep), keep, jitted(donate=()))
    runs = [
        [program for program in walk.programs if program.turn == i]
        for i in range(len(walk.turns))
    ]
    n, state, found = len(runs), trainer.init(3, problem.batch), []
    memory = load(places, state, {})
    for first in range(0, steps, every):
        last = min(first + every, steps)
        tasks = sorted(
            (t + i * staleness // (n - 1), i, t)
            for t in range(first, last)
            for i in range(n)
        )
        own: dict = {t: {} for t in range(first, last)}
        for _, i, t in tasks:
            p = walk.turns[i].party
            if not any(name.party == p for name in own[t] if isinstance(name, Name)):
                own[t] |= {
                    v._replace(kind="held params"): memory[v]
                    for v in places[p].params.values()
                }
                own[t] |= {
                    places[p].fields[f]: x
                    for f, x in batch_of(problem, t).items()
                    if f in places[p].fields
                }
                own[t][places[p].step] = jnp.int32(t)
            for program in runs[i]:
                results = program.function(
                    *[own[t][r] if r in own[t] else memory[r] for r in program.reads]
                )
                for name, x in zip(program.writes, results, strict=True):
                    (memory if name in lasting else own[t])[name] = x
        found += [
            {x.what: float(own[t][x]) for x in losses} for t in range(first, last)
        ]
    memory |= {at.step: jnp.int32(steps) for at in places.values()}
    return found, save_back(places, memory)


@pytest.mark.parametrize(
    ("turns", "staleness"), [(3, 1), (3, 2), (3, 5), (4, 2), (7, 3), (1, 2), (2, 1)]
)
def test_the_order_holds_every_turn_once_after_what_it_reads_and_within_the_bound(
    turns, staleness
):
    late = lateness(turns, staleness)
    assert (
        late[0] == 0 and late == sorted(late) and (turns == 1 or late[-1] == staleness)
    )
    found = list(order(range(turns), late, 4, 11))
    assert sorted(found) == [(t, i) for t in range(4, 11) for i in range(turns)]
    place = {at: k for k, at in enumerate(found)}
    for t, i in found:
        assert (
            i == 0 or place[t, i - 1] < place[t, i]
        )  # a message of a step comes after what it was made of
        assert t == 4 or place[t - 1, i] < place[t, i]
        assert (
            t - staleness - 1 < 4 or place[t - staleness - 1, turns - 1] < place[t, 0]
        )  # lacks the last updates at most
    for own in (
        [0],
        [turns - 1],
        range(0, turns, 2),
    ):  # and every party has its part of this one order
        assert list(order(list(own), late, 4, 11)) == [x for x in found if x[1] in own]


@pytest.mark.parametrize("staleness", [1, 3])
def test_activations_of_the_next_steps_are_sent_before_the_cotangent_of_a_step_comes(
    staleness,
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=6, staleness=staleness)
    local = Local(agreed, "client", problem.topology, optax.sgd(0.1))
    others, state = Others(local, 8, late=True), local.init(problem.batch)
    batches = partial(batch_of, problem)
    for step in range(8):
        state, _ = local.step(state, batches, step, others)
        sent = [x[1] for x in others.log if x[0] == "send"]
        end = 6 if step < 6 else 8  # before a checkpoint no step after it is begun
        assert sent == list(range(min(step + staleness + 1, end)))
        assert [x[1] for x in others.log if x[0] == "take"] == list(range(step + 1))


def over_the_network(agreed, problem, **options):
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def one(p, **given):
        held = problem.topology.holds.get(p, ())

        def batch(step):
            return {f: x for f, x in batch_of(problem, step).items() if f in held}

        return party.run(
            agreed,
            p,
            problem.topology,
            batch,
            optimizer=rates[p],
            credentials=trust[p],
            remind=0.5,
            **options,
            **given,
        )

    return one


@pytest.mark.parametrize(
    ("configuration", "model", "staleness", "backward", "links"),
    [
        ("vanilla", "residual", 1, "residuals", {}),
        ("u_shaped", "mlp", 2, "recompute", {"up": "cast(bfloat16)"}),
        pytest.param("vertical", "mlp", 3, "residuals", {}, marks=pytest.mark.slow),
        pytest.param(
            "multihop", "transformer", 2, "residuals", {}, marks=pytest.mark.slow
        ),
    ],
)
def test_over_the_network_steps_overlap_as_in_one_thread(
    configuration, model, staleness, backward, links
):
    problem = make_problem(configuration, model, "nnx")
    agreed = agreed_for(
        problem, steps=7, checkpoint=5, staleness=staleness, links=links
    )
    one = over_the_network(agreed, problem, backward=backward)
    results = checked(federation.together(agreed.parties, one))
    made = {n: jsplit.compress.cast(jnp.bfloat16) for n in links}
    losses, state = in_one_thread(
        problem,
        federation.optimizers(problem.topology),
        staleness,
        7,
        5,
        backward=backward,
        links=made,
    )
    for p, r in results.items():
        assert bits(r.state) == bits(state.parties[p]), p
        assert all(r.losses[n] == [x[n] for x in losses] for n in r.losses)


@pytest.mark.parametrize("staleness", [1, 2])
def test_the_client_of_two_trains_as_one_whose_gradients_arrive_late(staleness):
    """Three turns: the server is never late, the client's update comes `staleness`
    steps after its forward pass.
    """
    problem = small("pair")
    rates = federation.optimizers(problem.topology)
    _, state = in_one_thread(problem, rates, staleness, 6, 6)
    trainer = jsplit.messages(
        problem.topology, rates | {"client": jsplit.stale(rates["client"], staleness)}
    )
    other = trainer.init(3, problem.batch)
    for step in range(6 + staleness):  # the last gradients are applied when they arrive
        other, _ = trainer.step(other, batch_of(problem, step))
        if step == 5:
            assert bits(other.parties["server"].params) == bits(
                state.parties["server"].params
            )
    client = other.parties["client"]
    assert bits(client.params) == bits(state.parties["client"].params)
    assert bits(client.optimizer.inner) == bits(state.parties["client"].optimizer)


def test_a_party_that_stops_amid_steps_that_overlap_goes_on_from_the_last_state_that_all_have(
    tmp_path,
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=12, checkpoint=5, staleness=2)
    one, first, stop = over_the_network(agreed, problem), [], threading.Event()

    def again(p):
        if p == "server":
            on_step = lambda m: stop.set() if m.step == 8 else None  # noqa: E731
            first.append(one(p, stop=stop, on_step=on_step, checkpoint=tmp_path / p))
        return one(p, checkpoint=tmp_path / p)

    results = checked(federation.together(agreed.parties, again))
    assert first[0].stopped and first[0].step == 8
    assert (
        results["server"].epoch == 2 and len(results["server"].losses["loss"]) == 7
    )  # from step 5
    _, state = in_one_thread(problem, federation.optimizers(problem.topology), 2, 12, 5)
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())


def test_what_is_lost_while_steps_overlap_is_sent_again():
    """The client is ahead of what it has received, so what it sends does not say that it has it."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=40, checkpoint=40, staleness=3)
    proxy = federation.Proxy(int(agreed["addresses"]["server"].rpartition(":")[2]))
    one = over_the_network(agreed, problem)

    def cut(m):
        if m.step % 9 == 0:
            proxy.cut()

    try:
        given = {
            "client": {"addresses": {"server": f"localhost:{proxy.port}"}},
            "server": {"on_step": cut},
        }
        results = checked(
            federation.together(agreed.parties, lambda p: one(p, **given[p]))
        )
    finally:
        proxy.close()
    _, state = in_one_thread(
        problem, federation.optimizers(problem.topology), 3, 40, 40
    )
    assert proxy.faults == 4 and all(r.epoch == 1 for r in results.values())
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())


def test_staleness_is_agreed_upon_by_name_and_goes_with_neither_micro_batches_nor_turns():
    problem = small("pair")
    agreed = agreed_for(problem, staleness=2)
    assert agreed["staleness"] == 2 and agreed_for(problem)["staleness"] == 0
    assert agreed.schema != agreed_for(problem).schema
    with pytest.raises(
        ValueError, match="`staleness` is 1, which does not go with `microbatches` of 2"
    ):
        agreed_for(problem, staleness=1, microbatches=2)
    turns = party.turns(
        {"a": {"client": "a"}, "b": {"client": "b"}}, [("a", 1), ("b", 1)]
    )
    with pytest.raises(
        ValueError, match="`staleness` is 1, which does not go with `turns`"
    ):
        agreed_for(problem, staleness=1, turns=turns)
    with pytest.raises(ValueError, match="`staleness` must be an integer from 0 on"):
        agreed_for(problem, staleness=-1)
