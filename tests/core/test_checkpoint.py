"""Each party's state goes to a file of its own and comes back bit for bit."""

from __future__ import annotations

import gc
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.core.checkpoint import read
from tests.helpers import make_problem


# No test changes what it is given, and a step without `donate` leaves a state in hand valid.
@cache
def trained(configuration="u_shaped", kind="cnn", steps=2, **options):
    problem = make_problem(configuration, kind, "nnx")
    trainer = jsplit.fused(problem.topology, optax.adam(0.01), **options)
    state = trainer.init(0, problem.batch)
    for _ in range(steps):
        state, _ = trainer.step(state, problem.batch)
    return problem, trainer, state


def bits(state):
    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(state)]


def test_what_was_saved_comes_back_bit_for_bit_and_trains_on_as_if_nothing_had_been(
    tmp_path,
):
    problem, trainer, state = trained()
    files = jsplit.save(tmp_path, state)
    assert (
        sorted(f.name for f in files)
        == ["client.npz", "server.npz"]
        == sorted(f.name for f in tmp_path.iterdir())
    )
    restored = jsplit.restore(tmp_path, trainer.init(1, problem.batch))
    assert bits(restored) == bits(state)
    ahead, again = (
        trainer.step(state, problem.batch),
        trainer.step(restored, problem.batch),
    )
    assert bits(ahead) == bits(again)


def test_no_file_holds_another_party_s_arrays(tmp_path):
    _, _, state = trained("vanilla")
    jsplit.save(tmp_path, state)
    for party, own in state.parties.items():
        others = [
            np.asarray(x)
            for p, s in state.parties.items()
            if p != party
            for x in jax.tree.leaves((s.params, s.state))
        ]
        with np.load(tmp_path / f"{party}.npz") as found:
            names = set(found.files) - {"about"}
            assert len(names) == len(jax.tree.leaves(own))
            for name in names:
                same = [
                    x
                    for x in others
                    if x.size > 1
                    and x.shape == found[name].shape
                    and (x == found[name]).all()
                ]
                assert not same or not np.ptp(
                    same[0]
                )  # what is equal is only zeros or ones


def test_a_party_saves_and_restores_alone(tmp_path):
    problem, trainer, state = trained()
    alone = jsplit.TrainState({"client": state.parties["client"]})
    jsplit.save(tmp_path, alone)
    assert [f.name for f in tmp_path.iterdir()] == ["client.npz"]
    assert bits(jsplit.restore(tmp_path, alone)) == bits(alone)
    with pytest.raises(
        ValueError, match="there is no file .*server.npz for the party `server`"
    ):
        jsplit.restore(tmp_path, state)


def test_narrow_dtypes_and_odd_names_come_back(tmp_path):
    own = jsplit.PartyState(
        {
            "a/b": {
                "w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
                "s": jnp.bfloat16(2),
            }
        },
        {},
        (),
        {},
        jax.random.key(3, impl="rbg"),
        jnp.int32(4),
    )
    state = jsplit.TrainState({"St. Mary's / ward 3": own, "b": own})
    jsplit.save(tmp_path, state)
    assert bits(jsplit.restore(tmp_path, state)) == bits(state)


def test_a_file_of_another_party_model_or_step_is_refused(tmp_path):
    problem, trainer, state = trained()
    jsplit.save(tmp_path, state)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(
        ValueError,
        match="client.npz is of another (model|optimizer): it (lacks|has) `.*`",
    ):
        jsplit.restore(tmp_path, trained("u_shaped", "residual", 0)[2])
    wider = jax.tree.map(
        lambda x: jnp.zeros((*x.shape, 2), x.dtype) if x.ndim == 4 else x, state
    )
    with pytest.raises(
        ValueError,
        match=r"`params/up/.*kernel` is float32\[3, 3, 1, 4\], expected float32\[3, 3, 1, 4, 2\]",
    ):
        jsplit.restore(tmp_path, wider)
    (tmp_path / "client.npz").write_bytes(before["server.npz"])
    with pytest.raises(
        ValueError, match="client.npz is of the party `server`, expected `client`"
    ):
        jsplit.restore(tmp_path, state)
    (tmp_path / "client.npz").write_bytes(before["client.npz"])
    ahead, _ = trainer.step(state, problem.batch)
    jsplit.save(tmp_path, jsplit.TrainState({"client": ahead.parties["client"]}))
    with pytest.raises(
        ValueError, match="stand at different steps: {'client': 3, 'server': 2}"
    ):
        jsplit.restore(tmp_path, ahead)
    np.savez(tmp_path / "client.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="is not a jsplit checkpoint"):
        jsplit.restore(tmp_path, ahead)


def test_names_with_slashes_never_share_a_place(tmp_path):
    params = {
        "enc": {"out": jnp.ones(2)},
        "enc/out": jnp.zeros(2),
        "a%2Fb": jnp.ones(1),
        "a/b": jnp.zeros(1),
    }
    own = jsplit.PartyState(params, {}, (), {}, jax.random.key(0), jnp.int32(0))
    names = ("\u533b" * 60, "\u533b" * 59 + "\u9662")
    state = jsplit.TrainState(dict.fromkeys(names, own))
    assert len({*jsplit.save(tmp_path, state)}) == 2
    assert bits(jsplit.restore(tmp_path, state)) == bits(state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-40],
        lambda b: b"",
        lambda b: b"a text",
        lambda b: b[:200] + b"?" * 50 + b[250:],
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    _, _, state = trained(steps=0)
    (file, *_) = jsplit.save(tmp_path, state)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=f"{file.name} is not a whole jsplit checkpoint"
    ) as error:
        jsplit.restore(tmp_path, state)
    assert "\n" not in str(error.value)


def test_a_key_of_another_kind_is_refused(tmp_path):
    _, trainer, state = trained(steps=0)
    jsplit.save(tmp_path, state)
    other = {
        p: s._replace(key=jax.random.key(0, impl="rbg"))
        for p, s in state.parties.items()
    }
    with pytest.raises(ValueError, match="`key` is key<fry>, expected key<rbg>"):
        jsplit.restore(tmp_path, jsplit.TrainState(other))


def test_a_run_whose_optimizer_widens_its_memory_is_restored(tmp_path):
    narrow = jsplit.segment(
        lambda w, x: x @ w,
        init=lambda key, x: jnp.ones((4, 3), jnp.bfloat16),
        inputs=["x"],
    )
    loss = jsplit.Loss("loss", lambda h: (h**2).mean(-1), "lab", ["h"])
    topology = jsplit.Topology([jsplit.Node("h", narrow, "lab"), loss], {"lab": ["x"]})
    optimizer = optax.inject_hyperparams(optax.adam)(
        optax.constant_schedule(0.1), b2=0.9
    )
    trainer, batch = (
        jsplit.fused(topology, optimizer),
        {"x": np.ones((2, 4), jnp.bfloat16)},
    )
    state, _ = trainer.step(trainer.init(0, batch), batch)
    jsplit.save(tmp_path, state)
    assert bits(jsplit.restore(tmp_path, trainer.init(0, batch))) == bits(state)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    _, _, state = trained(steps=0)
    (file, *_) = jsplit.save(tmp_path, state)
    before = file.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        jsplit.save(tmp_path, state)
    assert file.read_bytes() == before
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".npz", ".npz"]


def test_the_header_says_what_the_file_is(tmp_path):
    _, _, state = trained(steps=0)
    jsplit.save(tmp_path, state)
    with np.load(tmp_path / "server.npz") as found:
        about = json.loads(str(found["about"]))
    assert about["party"] == "server" and about["dtypes"]["step"] == "int32"


def test_several_threads_may_read_at_once(tmp_path):
    """CPython 3.11.7 cannot parse in two threads, as NumPy does here, if one is
    interrupted by a collection of garbage.
    """
    np.savez(tmp_path / "client.npz", **{f"w{i}": np.ones(3) for i in range(8)})
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(interrupt := lambda phase, info: sum(range(200)))
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(20)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda i: read(tmp_path / "client.npz"), range(1500)))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
        gc.callbacks.remove(interrupt)


def test_numbers_that_were_set_by_hand_are_saved_as_a_step_takes_them(tmp_path):
    problem = make_problem("vanilla", "mlp", "nnx")
    rate = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    trainer = jsplit.fused(problem.topology, rate)
    state = trainer.init(0, problem.batch)
    for by_hand in (0.01, np.float64(0.01), np.float32(0.01)):
        for own in state.parties.values():
            own.optimizer.hyperparams["learning_rate"] = by_hand
        jsplit.save(tmp_path, state)
        for like in (state, trainer.init(0, problem.batch)):
            back = jsplit.restore(tmp_path, like)
            for own in back.parties.values():
                found = own.optimizer.hyperparams["learning_rate"]
                assert found.dtype == jnp.float32 and found == np.float32(0.01)
    own = state.parties["client"]
    own.optimizer.hyperparams["learning_rate"] = "0.01"
    with pytest.raises(
        ValueError, match="`.*learning_rate` of the state must be an array"
    ):
        jsplit.save(tmp_path, state)
    own.optimizer.hyperparams["learning_rate"] = 0.01
    trainer.step(state, problem.batch)  # and it is taken as it is
