"""Secret noise over the network: the same bits as in one process, and no frame holds a secret."""

from __future__ import annotations

from zlib import crc32

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.wire.pipe import Pipe
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    layer,
    optimizers,
    own_of,
    small,
    together,
    train_in_memory,
)

SIGMA, STEPS = 0.3, 6


def noisy(thousandths=300):
    """Gaussian noise of so many thousandths, which only the sender can compute."""

    def encode(value, key):
        return value + thousandths / 1000 * jax.random.normal(key, value.shape)

    return jsplit.stateless(encode, lambda payload, like: payload, secret=True)


def by_label():
    """More noise on the cotangents of records whose label is positive."""

    def encode(value, key, own):
        label = own["label"]
        more = 1 if label is None else 1 + (label > 0)
        return value + 0.01 * more * jax.random.normal(key, value.shape)

    return jsplit.stateless(
        encode, lambda payload, like: payload, reads=("label",), secret=True
    )


jsplit.compress.register("secret_noise", noisy, replace=True)
jsplit.compress.register("noise_by_label", by_label, replace=True)
LINKS = {"h": ["secret_noise(300) | quantize(8)", "noise_by_label()"]}
MADE = {"h": (jsplit.chain(noisy(300), jsplit.compress.quantize(8)), by_label())}


def in_one_process(problem, secrets, steps=STEPS, links=MADE, **options):
    trainer = jsplit.messages(
        problem.topology, optimizers(problem.topology), links=links, **options
    )
    state = jsplit.with_secrets(trainer.init(3, problem.batch), secrets)
    for _ in range(steps):
        state, _ = trainer.step(state, problem.batch)
    return state.parties


class KilledError(Exception):
    """A party dies between two steps; all that it had in memory is gone."""


def killed(agreed, problem, folder, deaths):
    """All train over the memory transport; each party dies once after the step of `deaths`."""
    hub, left = party.MemoryTransport(), dict(deaths)

    def one(name):
        batch = own_of(problem, name)

        def on_step(metrics):
            if metrics.step >= left.get(name, 1 << 30):
                del left[name]
                raise KilledError

        while True:
            try:
                return party.run(
                    agreed,
                    name,
                    problem.topology,
                    lambda step: batch,
                    credentials=party.PlaintextWithoutIdentity(name),
                    optimizer=optimizers(problem.topology)[name],
                    remind=0.2,
                    transport=hub,
                    checkpoint=folder / name,
                    on_step=on_step,
                )
            except KilledError:
                continue

    results = checked(together(agreed.parties, one))
    assert not left
    return results


@pytest.mark.parametrize(("micros", "scale"), [(1, None), (2, None), (1, 64.0)])
def test_parties_draw_what_one_process_draws_with_their_secrets(micros, scale):
    problem = small("pair")
    agreed = agreed_for(
        problem, steps=3, links=LINKS, microbatches=micros, loss_scale=scale
    )
    results = checked(train_in_memory(agreed, problem))
    secrets = {p: r.state.secret for p, r in results.items()}
    assert secrets["client"] != secrets["server"]
    options = {"microbatches": micros, "loss_scale": scale}
    for p, own in in_one_process(problem, secrets, 3, **options).items():
        assert bits(results[p].state) == bits(own), p


@pytest.mark.parametrize("deaths", [{"client": 1}, {"server": 4}, {"client": 5}])
def test_a_party_that_was_killed_repeats_its_own_noise(tmp_path, deaths):
    """Also one that dies in its first steps, before a checkpoint was due."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=STEPS, checkpoint=3, links=LINKS)
    results = killed(agreed, problem, tmp_path, deaths)
    assert any(r.epoch > 1 for r in results.values())
    secrets = {p: r.state.secret for p, r in results.items()}
    for p, own in in_one_process(problem, secrets).items():
        assert bits(results[p].state) == bits(own), p


def test_no_frame_and_no_agreement_holds_a_secret_and_each_checkpoint_its_own(
    tmp_path, monkeypatch
):
    sent = []
    put = Pipe.put

    def tapped(self, chunk, timeout=None):
        sent.append(bytes(chunk))
        return put(self, chunk, timeout)

    monkeypatch.setattr(Pipe, "put", tapped)
    problem = small("pair")
    agreed = agreed_for(problem, steps=4, checkpoint=2, links=LINKS)
    results = killed(agreed, problem, tmp_path, {"client": 3})
    secrets = {p: r.state.secret for p, r in results.items()}
    words = {p: np.asarray(jax.random.key_data(s)) for p, s in secrets.items()}
    frames = b"".join(sent)
    # The tap sees what crosses: the noisy payloads are many frames.
    assert len(sent) > 20 and len(frames) > 2000
    for p, x in words.items():
        # The words themselves, in either order of bytes, and each alone as text.
        for held in (x.tobytes(), x.byteswap().tobytes()):
            assert held not in frames
        assert not [w for w in x if str(w).encode() in frames]
        assert not [w for w in x if str(w) in str(agreed)]
        for other in words:
            for file in (tmp_path / other).rglob("*.npz"):
                assert (x.tobytes() in file.read_bytes()) == (p == other), (p, file)


def test_clients_in_turns_have_a_secret_each_and_hand_none_over(monkeypatch):
    sent = []
    put = Pipe.put
    monkeypatch.setattr(
        Pipe, "put", lambda self, x, t=None: (sent.append(bytes(x)), put(self, x, t))[1]
    )
    problem = small("pair")
    who = party.turns(
        {c: {"client": c} for c in ("north", "south")}, [("north", 1), ("south", 2)]
    )
    agreed = agreed_for(problem, steps=5, links=LINKS, turns=who)
    role, rates = agreed.turns.role, optimizers(problem.topology)
    results = checked(
        train_in_memory(
            agreed,
            problem,
            {name: rates[role[name]] for name in agreed.parties},
            lambda problem, name: own_of(problem, role[name]),
        )
    )
    words = {
        p: np.asarray(jax.random.key_data(r.state.secret)) for p, r in results.items()
    }
    assert len({w.tobytes() for w in words.values()}) == 3
    assert not [p for p, w in words.items() if w.tobytes() in b"".join(sent)]

    # Each draws of its own: in one process with their secrets it is the same run.
    trainer = jsplit.messages(problem.topology, rates, links=MADE)
    state = trainer.init(3, problem.batch)
    for step in range(5):
        now = agreed.turns.names[agreed.turns.client(step)]
        keys = {
            "client": results[now].state.secret,
            "server": results["server"].state.secret,
        }
        state, _ = trainer.step(jsplit.with_secrets(state, keys), problem.batch)
    for role, own in state.parties.items():
        name = role if role == "server" else now
        assert bits(results[name].state) == bits(own), role


def view_and_clean(results, problem, given):
    """What the server was sent in inference, and what the client computed."""
    return given["server"].outputs["seen"], np.tanh(
        problem.batch["x"] @ np.asarray(results["client"].state.params["h"][0])
    )


@pytest.mark.parametrize("secret", [False, True])
def test_over_the_network_a_receiver_takes_public_noise_off_and_secret_noise_it_cannot(
    secret,
):
    def link():
        return noisy()._replace(secret=secret)

    jsplit.compress.register("some_noise", link, replace=True)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(256, 3)).astype(np.float32)}
    batch["label"] = batch["x"][:, :1]
    topology = jsplit.vanilla(
        layer(["x"], "h", 8),
        layer(["h"], "y", 1),
        loss=lambda y, label: (y - label) ** 2,
    )
    # What the server is sent is an output of its own here.
    topology = topology.add(
        jsplit.Node("seen", jsplit.segment(lambda h: h, inputs=["h"]), "server", ["h"])
    )
    problem = Small(topology, batch)
    agreed = agreed_for(problem, steps=1, links={"h": ["some_noise()", None]})
    results = checked(train_in_memory(agreed, problem))

    def predicted():
        hub = party.MemoryTransport()

        def one(name):
            held = {f: batch[f] for f in topology.holds.get(name, ())}
            return party.predict(
                agreed,
                name,
                topology,
                held,
                records=256,
                credentials=party.PlaintextWithoutIdentity(name),
                state=results[name].state,
                remind=0.2,
                transport=hub,
            )

        return checked(together(agreed.parties, one))

    view, clean = view_and_clean(results, problem, predicted())
    error = 5 / np.sqrt(2 * view.size)
    assert abs(np.std(view - clean) / SIGMA - 1) < error
    state = results["server"].state
    name = crc32(b"activation/h/client/server")
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), name)
    guess = SIGMA * jax.random.normal(key, view.shape)
    left = np.std(view - guess - clean)
    again, _ = view_and_clean(results, problem, predicted())
    if secret:
        assert abs(left / (np.sqrt(2) * SIGMA) - 1) < error
        assert abs(np.std(view - again) / (np.sqrt(2) * SIGMA) - 1) < error
    else:
        assert left < 1e-5 and (view == again).all()


def test_a_folder_from_before_a_link_was_secret_is_refused_by_name(tmp_path):
    def link():
        return noisy()._replace(secret=maker["secret"])

    maker = {"secret": False}
    jsplit.compress.register("noise_once", link, replace=True)
    problem = small("pair")
    agreed = agreed_for(problem, steps=4, links={"h": ["noise_once()", None]})
    killed(agreed, problem, tmp_path, {})
    maker["secret"] = True
    with pytest.raises(ValueError, match="has no secret key"):
        killed(agreed, problem, tmp_path, {})
    batch = own_of(problem, "client")
    with pytest.raises(ValueError, match="has no secret key"):
        party.predict(
            agreed,
            "client",
            problem.topology,
            {"x": batch["x"]},
            records=8,
            credentials=party.PlaintextWithoutIdentity("client"),
            checkpoint=tmp_path / "client",
        )


def test_a_field_that_a_link_alone_reads_is_asked_for_and_its_records_are_compared():
    """Else its rows could be in another order than those that they belong to."""

    def encode(value, key, own):
        return value if own["group"] is None else value * own["group"][:, None]

    link = jsplit.stateless(encode, lambda p, like: p, reads=("group",))
    jsplit.compress.register("by_group", lambda: link, replace=True)
    made = small("pair")
    nodes = [n for n in made.topology.nodes if not isinstance(n, jsplit.Loss)]
    squares = lambda y: y**2  # noqa: E731
    topology = jsplit.Topology(
        [*nodes, jsplit.Loss("loss", squares, "server", ["y"])],
        {"client": ["x"], "server": ["group"]},
    )
    batch = {"x": made.batch["x"], "group": np.arange(8, dtype=np.float32)}
    problem = Small(topology, batch)
    agreed = agreed_for(problem, steps=2, links={"h": [None, "by_group()"]})
    results = checked(train_in_memory(agreed, problem))
    trainer = jsplit.messages(topology, optimizers(topology), links={"h": (None, link)})
    state = trainer.init(3, batch)
    for _ in range(2):
        state, _ = trainer.step(state, batch)
    for p, own in state.parties.items():
        assert bits(results[p].state) == bits(own)

    # Two parties have records now, so ids are asked of both.
    def one(name):
        fields = {f: batch[f] for f in topology.holds[name]}
        return party.run(
            agreed,
            name,
            topology,
            fields,
            ids=range(8) if name == "client" else range(1, 9),
            ids_key=b"of those who hold records alone",
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.sgd(0.1),
            remind=0.2,
            transport=hub,
        )

    hub = party.MemoryTransport()
    found = together(agreed.parties, one)
    assert all(isinstance(x, Exception) for x in found.values()), found
    assert any("ids" in str(x) or "records" in str(x) for x in found.values()), found
