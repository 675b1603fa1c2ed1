"""What parties agree upon: written and read, compared, and refused where it does not fit."""

from __future__ import annotations

import json
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.contract.sample import sample_agreement
from jsplit.wire import layout
from tests.helpers import make_problem
from tests.party import federation
from tests.party.federation import (
    agreed_for,
    checked,
    own_of,
    small,
    together,
    trust_of,
)


def test_an_agreement_is_written_and_read_and_says_nothing_of_a_model(tmp_path):
    agreed = agreed_for(make_problem("multitask", "residual", "nnx"))
    file = party.write(tmp_path / "agreement.json", agreed)
    assert party.read(file) == agreed and party.read(file).hash == agreed.hash
    assert agreed["values"]["left"] == {
        "h": "float32[batch,4,4,4]",
        "skip": "float32[batch,4,4,4]",
    }
    assert "kernel" not in file.read_text()
    assert [w.label for w in agreed.wires][:2] == [
        "activation left to server0",
        "activation left to server1",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "an agreement says `format`"),
        ({"steps": 0}, "`steps` must be an integer from 1"),
        ({"steps": True}, "`steps` must be"),
        ({"extra": 1}, "an agreement has `extra`"),
        ({"lead": "lab"}, "`lead` must be a party"),
        ({"microbatches": 3}, "does not divide"),
        ({"patience": -1}, "`patience` must be"),
        ({"nonfinite": "x"}, "`nonfinite` must be one of refuse, skip, allow"),
        ({"addresses": {"x": "y"}}, "names the party `x`"),
        (
            {"addresses": {"server": "localhost"}},
            "must say host:port for `server`, got 'localhost'",
        ),
        ({"addresses": {}}, "`addresses` must say host:port"),
        (
            {"links": {"left": ["quantise(8)", None]}},
            "has `quantise.8.`; is `quantize` meant",
        ),
        ({"links": {"left": ["quantize(9)", None]}}, "`bits` must be"),
        (
            {"values": {"left": "float32[batch,8]", "right": "float32(8)"}},
            "is no shape",
        ),
        (
            {"values": {"left": "float32[batch,8]", "right": "float99[8]"}},
            "has the dtype float99",
        ),
        ({"values": {}}, "does not hold what it must"),
        ({"links": {"label": [None, None]}}, "`label`, which does not cross"),
        ({"links": {"left": [3, None]}}, "must hold names"),
        ({"holds": {"lab": []}}, "reads `left_field`"),
        ({"parties": ["lab", "server"]}, "`parties` are"),
    ],
)
def test_a_file_that_is_no_agreement_is_refused_and_named(tmp_path, change, message):
    agreed = agreed_for(make_problem("vertical", "mlp", "nnx"))
    file = tmp_path / "agreement.json"
    file.write_text(json.dumps(agreed.said | change))
    with pytest.raises(ValueError, match="agreement.json: .*" + message):
        party.read(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="agreement.json holds no agreement"):
        party.read(file)


def test_parties_that_have_agreed_on_different_things_say_on_both_sides_what_differs():
    problem = small("pair")
    agreed = agreed_for(problem, patience=3.0)
    other = agreed.replace(seed=4)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        mine = other if p == "client" else agreed
        batch = own_of(problem, p)
        return party.run(
            mine,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust[p],
        )

    found = together(agreed.parties, work)
    assert isinstance(found["client"], party.Refused) and isinstance(
        found["server"], party.Missing
    )
    assert str(found["client"]) in (
        "the agreements differ: `seed` is 4 at `client` and 3 at `server`.",
        "the agreements differ: `seed` is 3 at `server` and 4 at `client`.",
    )
    assert "`seed` is 3 at `server` and 4 at `client`" in str(
        found["server"]
    )  # it went on waiting for the right one


def test_what_a_party_brings_under_another_name_or_of_another_kind_is_named():
    """Not called missing: whoever brings a function for what merges has not left it out."""
    agreed, bottom = sample_agreement(), jsplit.segment(lambda x: 2 * x, inputs="x")
    for role, node, loss in (("client", "h", None), ("server", "y", "loss")):
        own = {node: bottom} | ({} if loss is None else {loss: jnp.mean})
        agreed.topology(role, own)
        with pytest.raises(ValueError, match=f"lacks .*`{node}`.*; it has .*`bottom`"):
            others = {n: x for n, x in own.items() if n != node}
            agreed.topology(role, {"bottom": bottom} | others)
        with pytest.raises(
            ValueError,
            match=f"must have a segment for the node `{node}`, got function; `jsplit.seg",
        ):
            agreed.topology(role, own | {node: lambda x: x})
        if loss is not None:
            with pytest.raises(
                ValueError, match="must have a function for the loss `loss`, got float"
            ):
                agreed.topology(role, own | {loss: 1.0})


def test_what_a_party_brings_must_be_what_was_agreed_upon():
    problem = make_problem("vanilla", "mlp", "nnx")
    agreed = agreed_for(problem)
    own = {n.name: n.segment for n in problem.topology.segments if n.party == "client"}
    wrong = jsplit.segment(
        lambda w, x: x @ w, init=lambda key, x: jnp.ones((6, 3)), inputs=["image"]
    )
    data = own_of(problem, "client")
    for given, message in [
        ({"party": "nobody"}, "`party` must be one of client, server"),
        ({"own": {}}, "lacks the segment of the node `smashed`"),
        ({"own": own | {"x": wrong}}, "`own` has `x`, which is not of `client`"),
        ({"optimizer": None}, "`optimizer` is missing"),
        ({"own": 3}, "`own` must be a dictionary"),
    ]:
        with pytest.raises(ValueError, match=message):
            Local(
                **{
                    "agreed": agreed,
                    "party": "client",
                    "own": own,
                    "optimizer": optax.sgd(0.1),
                }
                | given
            )
    with pytest.raises(
        ValueError,
        match=r"node `smashed` gives float32\[8,3\], the agreement says float32\[8,8\]",
    ):
        Local(agreed, "client", {"smashed": wrong}, optax.sgd(0.1)).init(data)
    server = Local(agreed, "server", problem.topology, optax.sgd(0.1))
    with pytest.raises(
        ValueError,
        match=r"loss `loss` at `server` does not run on .*`label` float32\[8,2,7\]",
    ):
        server.init({"label": np.zeros((8, 2, 7), np.float32)})
    with pytest.raises(ValueError, match="`links` of `smashed` must be a name"):
        agreed_for(problem, links={"smashed": jsplit.identity})
    named = party.foreign("smashed", "client", inputs="image")
    assert named.inputs == ("image",)
    with pytest.raises(ValueError, match="`own` lacks the function of the loss `loss`"):
        agreed.topology(
            "server",
            {
                n.name: n.segment
                for n in problem.topology.segments
                if n.party == "server"
            },
        )
    with pytest.raises(
        ValueError, match="`data` lacks the field `image`, which `client` holds"
    ):
        party.run(
            agreed,
            "client",
            own,
            {},
            optimizer=optax.sgd(0.1),
            credentials=trust_of(agreed.parties)["client"],
        )
    linked = agreed.replace(links={"smashed": ["mine", None]})
    with pytest.raises(
        ValueError,
        match=r"`links` has `mine`; there are quantize\(bits\), cast\(dtype\)",
    ):
        linked.links()
    assert linked.links({"mine": jsplit.identity}) == {
        "smashed": (jsplit.identity, None)
    }


@pytest.mark.parametrize("configuration", ["vertical", "chain"])
def test_values_that_are_not_finite_end_the_run_of_all_or_are_allowed(configuration):
    """Found by whoever gets them, the lead or another, and told to everybody."""
    problem = small(configuration)
    bad = {**problem.batch, "x": np.full_like(problem.batch["x"], np.nan)}
    agreed = agreed_for(problem, steps=4)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(agreed):
        def one(p):
            held = problem.topology.holds.get(p, ())

            def batch(step):
                return {f: (bad if step == 2 else problem.batch)[f] for f in held}

            return party.run(
                agreed,
                p,
                problem.topology,
                batch,
                optimizer=rates[p],
                credentials=trust[p],
                remind=0.5,
            )

        return together(agreed.parties, one)

    first = problem.topology.segments[0]
    for name, error in work(agreed).items():
        found = jsplit.NotFinite if name == first.party else party.Refused
        assert isinstance(error, found), error
        # In its own words, or as what it says.
        assert name == first.party or f"`{first.party}` says" in str(error)
        assert (
            f"activation `{first.name}` of step 2 is not finite where it is computed."
        ) in str(error)
    results = checked(work(agreed.replace(nonfinite="allow")))
    assert all(r.step == 4 for r in results.values())
    assert np.isnan(results[agreed.parties[-1]].losses["loss"][2:]).all()


def test_what_no_frame_can_carry_is_refused_before_the_first_step(
    tmp_path, monkeypatch
):
    """What crosses, and what a client would hand over after its turn."""
    state = lambda key, x: ({}, {"few": jnp.zeros(3, jnp.int4)})  # noqa: E731
    odd = jsplit.Segment(
        state, lambda params, state, key, x, train=True: (x, state), ("x",), "h"
    )
    crosses = jsplit.segment(lambda x: x.astype(jnp.int4), inputs=["x"], name="h")
    top = jsplit.segment(lambda h: h.astype(jnp.float32), inputs=["h"], name="y")
    loss = lambda y, label: (y - label).mean()  # noqa: E731
    batch = {"x": np.ones((8, 3), np.float32), "label": np.ones((8, 1), np.float32)}
    turns = party.turns(
        {c: {"client": c} for c in ("north", "south")}, [("north", 1), ("south", 1)]
    )

    def refusal(bottom, name, turns=None):
        problem = federation.Small(
            jsplit.vanilla(bottom, top, loss=loss, public="x"), batch
        )
        agreed = agreed_for(problem, turns=turns)
        with pytest.raises(ValueError) as error:
            party.run(
                agreed,
                name,
                problem.topology,
                lambda step: {"x": batch["x"]},
                credentials=trust_of(agreed.parties)[name],
                optimizer=optax.adam(0.1),
            )
        return str(error.value)

    assert (
        refusal(crosses, "client")
        == "activation `h` holds int4[8, 3], which has no form on the wire."
    )
    assert (
        refusal(odd, "north", turns)
        == "weights `client` holds int4[3], which has no form on the wire."
    )
    monkeypatch.setattr(layout, "MOST_ARRAYS", 6)
    many = jsplit.segment(
        lambda w, x: x @ sum(w),
        init=lambda key, x: [jnp.ones((3, 3))] * 2,
        inputs=["x"],
        name="h",
    )
    assert (
        refusal(many, "north", turns)
        == "weights `client` must be at most 6 arrays, got 7."
    )


def test_who_dials_whom_follows_from_who_listens():
    problem = make_problem("multihop", "mlp", "nnx")
    one = agreed_for(problem)
    assert one.reach("one") == {"two": "lead", "three": "lead", "four": "dial"}
    assert one.reach("four") == dict.fromkeys(["one", "two", "three"], "wait")
    two = agreed_for(problem, listens=["two", "four"], lead="four")
    assert two.reach("two") == {"one": "wait", "three": "wait", "four": "dial"}
    assert two.reach("one") == {"two": "dial", "three": "lead", "four": "dial"}


class Quantized(NamedTuple):
    levels: np.ndarray
    scale: np.ndarray


def test_values_of_other_kinds_than_dictionaries_and_lists_cannot_cross():
    pair = jsplit.segment(lambda x: Quantized(x, x), inputs=["x"], name="h")
    top = jsplit.segment(lambda h: h.levels, inputs=["h"], name="y")
    topology = jsplit.vanilla(
        pair, top, loss=lambda y, label: (y - label).mean(), fields=["x"]
    )
    with pytest.raises(ValueError, match="`h` crosses as a Quantized"):
        batch = {"x": np.ones((2, 3), np.float32), "label": np.ones((2, 3), np.float32)}
        party.agreement(topology, batch, steps=1, addresses={"server": "x:1"})


def test_an_agreement_is_made_of_shapes_alone():
    """Of weights that each party loads later, and nobody has as a whole."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.low = nnx.Linear(4, 3, rngs=rngs)
            self.high = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.high(nnx.relu(self.low(x)))

    def made(model):
        x = jnp.ones((4, 4))
        topology = jsplit.vanilla(
            *jsplit.split(model, x, cuts=["low"]).values(), loss=optax.squared_error
        )
        batch = {"x": x, "label": jnp.ones((4, 2))}
        return jsplit.party.agreement(
            topology, batch, steps=1, addresses={"server": "localhost:1"}
        )

    def make():
        return Net(nnx.Rngs(0))

    assert made(nnx.eval_shape(make)).text == made(make()).text
