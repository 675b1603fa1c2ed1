"""A link with a memory at both ends, in training: in every interpreter, over rounds and files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from jsplit.compress import quantize, temporal_differences
from tests.privacy.defended import pair
from tests.training.common import INTERPRETERS, both, close, learned, refused

RECORDS, BATCH = 24, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(RECORDS, 6)).astype(np.float32)
DATA = {
    "x": X,
    "label": (X[:, 0] > 0).astype(np.float32),
    "row": np.arange(RECORDS),
}
UP, DOWN = "activation h to server", "cotangent h to client"


def differences(link=None, records=RECORDS):
    link = quantize(4) if link is None else link
    return temporal_differences(link, rows="row", records=records)


def topology():
    """Both have the numbers of records: each sends differences."""
    found = pair()
    held = {p: (*fields, "row") for p, fields in found.holds.items()}
    return replace(found, holds=held)


def trainer(make, links=None, **options):
    return make(topology(), optax.sgd(0.3, momentum=0.5), links=links, **options)


@cache
def batches():
    """Two epochs, each in an order of its own."""
    places = [RNG.permutation(RECORDS).reshape(-1, BATCH) for _ in range(2)]
    return [{f: x[own] for f, x in DATA.items()} for own in np.concatenate(places)]


def run(one, state=None, count=6, first=0):
    state = one.init(0, batches()[0]) if state is None else state
    for batch in batches()[first:count]:
        state, _ = one.step(state, batch)
    return state


def with_links_of(one, state):
    """A state with the first memories of a trainer's links."""
    first = one.init(0, batches()[0]).parties
    return jsplit.TrainState(
        {p: x._replace(links=first[p].links) for p, x in state.parties.items()}
    )


def memories(state):
    """Of each message what its receiver keeps, and the same as its sender knows it."""
    end = differences().receiver
    assert end is not None
    ends = {UP: ("client", "server"), DOWN: ("server", "client")}
    return [
        (
            end.mirror(state.parties[sender].links[label]),
            state.parties[receiver].links[label],
        )
        for label, (sender, receiver) in ends.items()
    ]


def same(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("microbatches", [1, 2])
def test_both_ends_keep_the_same_in_both_directions_in_every_interpreter(microbatches):
    runs = []
    for make in INTERPRETERS.values():
        one = trainer(make, {"h": differences()}, microbatches=microbatches)
        state = run(one)
        for known, kept in memories(state):
            same(known, kept)
            assert np.count_nonzero(np.abs(kept[0]).sum(1)) == RECORDS
        runs.append(learned(state))
    close(*runs, 1e-5)


@both
def test_differences_that_cross_exactly_are_the_plain_run(interpreter):
    plain, exact = (
        learned(run(trainer(INTERPRETERS[interpreter], links)))
        for links in (None, {"h": differences(jsplit.identity)})
    )
    close(exact, plain, 1e-5)


@both
def test_in_inference_there_is_no_memory_and_none_is_kept(interpreter):
    one = trainer(INTERPRETERS[interpreter], {"h": differences()})
    state = run(one)
    plain = trainer(INTERPRETERS[interpreter], {"h": quantize(4)})
    bare = with_links_of(plain, state)
    for size in (BATCH, 5):
        fields = {"x": X[:size]}
        close(one.predict(state, fields)["logit"], plain.predict(bare, fields)["logit"])
    info = one.evaluate(state, DATA)
    close(info.loss, plain.evaluate(bare, DATA).loss)


def test_a_run_from_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    one = trainer(jsplit.messages, {"h": differences()})
    half = run(one, count=4)
    jsplit.save(tmp_path / "state", half)
    back = jsplit.restore(tmp_path / "state", one.init(0, batches()[0]))
    same(memories(back), memories(half))
    same(run(one, back, first=4), run(one))
    # A control: who has lost the memory goes on otherwise.
    with pytest.raises(AssertionError):
        same(run(one, with_links_of(one, half), first=4), run(one))


def test_a_step_that_is_left_out_moves_neither_memory():
    one = trainer(jsplit.fused, {"h": differences()}, nonfinite="skip")
    state = run(one, count=3)
    spoiled = batches()[3] | {"x": np.full((BATCH, 6), np.inf, np.float32)}
    after, info = one.step(state, spoiled)
    assert info.finite is not None and not info.finite.all()
    same(memories(after), memories(state))


def test_an_example_of_weight_0_is_left_out_and_what_is_kept_of_records_stays():
    """Others stand in its place, so one record is in a batch several times."""
    one = jsplit.record(trainer(jsplit.messages, {"h": differences()}))
    state, batch = one.init(0, batches()[0]), batches()[0]
    for _ in range(2):
        state, told = one.step(state, batch, weight=np.arange(BATCH) < 3)
    # Exactly 0, though there is a memory of who stands in: no rounded difference to it.
    assert not told.crossed["cotangent", "h", "server", "client"].value[3:].any()
    for known, kept in memories(state):
        same(known, kept)
        seen = np.flatnonzero(np.abs(kept[0]).sum(1))
        assert set(seen) == set(batch["row"][:3])


def test_bytes_and_memory_are_as_costed():
    links = {"h": differences()}
    one = trainer(jsplit.messages, links)
    state, info = one.step(one.init(0, batches()[0]), batches()[0])
    cost = jsplit.cost(topology(), batches()[0], links=links, optimizer=optax.sgd(0.3))
    counted = [m.bytes for m in info.messages if m.name == "h"]
    # Five numbers of half a byte, a scale of two, and the number of the record.
    assert counted == [BATCH * 5 // 2 + BATCH * (2 + 1)] * 2
    assert [m.bytes for m in cost.messages if m.name == "h"] == counted
    for party in ("client", "server"):
        # What it sent, and what it got.
        assert cost.parties[party].links == 2 * RECORDS * 5 * 4


def test_what_is_recorded_of_a_message_is_what_its_receiver_kept_of_it():
    for make in INTERPRETERS.values():
        recording = jsplit.record(trainer(make, {"h": differences()}, microbatches=2))
        state = run(recording, count=4)
        # Both micro-batches are of the same records: the second reads what the first left.
        batch = {f: np.concatenate([x[:4], x[:4]]) for f, x in batches()[4].items()}
        after, told = recording.step(state, batch)
        for (kind, *ends), table in (
            (("activation", "client", "server"), memories(after)[0][1]),
            (("cotangent", "server", "client"), memories(after)[1][1]),
        ):
            value = told.crossed[kind, "h", *ends].value
            # Of the mean over a micro-batch; what is recorded, over the batch.
            share = 1 if kind == "activation" else 2
            close(value[4:] * share, table[0][batch["row"][4:]], 1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda t: rounds.take_turns(t, "client", handoff="none"),
        lambda t: rounds.splitfed(t, "client"),
        lambda t: rounds.parallel(t, "client"),
    ],
    ids=["take_turns", "splitfed", "parallel"],
)
def test_in_rounds_each_client_has_a_memory_at_both_ends(algorithm):
    """Also where two clients number their records alike."""
    people = jsplit.population.grouped(["north"] * 12 + ["south"] * 12)
    data = DATA | {"row": np.arange(RECORDS) % 12}
    drawn = people.round(data, 0, batch=4)
    made = algorithm(trainer(jsplit.fused, {"h": differences(records=12)}))
    state, info = made.step(made.init(0, drawn), drawn)
    assert np.isfinite(info.loss)
    for known, kept in memories(state):
        same(known, kept)
        [table] = kept
        assert table.shape == (2, 12, 5) and np.abs(table).sum(2).all()
        assert np.abs(table[0] - table[1]).max() > 0.1


def test_a_dynamic_loss_scale_does_not_move_what_is_remembered_of_cotangents():
    """What crosses is scaled, and the next scale would be another."""
    found = []
    for scale in (None, jsplit.DynamicScale(initial=2.0**10, interval=2)):
        options = {"nonfinite": "skip"} | ({"loss_scale": scale} if scale else {})
        found.append(run(trainer(jsplit.fused, {"h": differences()}, **options)))
    close(*[learned(x) for x in found], 1e-5)
    close(*[memories(x)[1] for x in found], 1e-5)


def test_no_guarantee_holds_of_a_link_that_keeps_what_it_got():
    """Nor where a chain hides that its noise has a memory."""
    from tests.privacy.test_guarantees import NOISE, about, link, vanilla

    told = link(NOISE)._replace(receiver=differences().receiver)
    said = about(vanilla(), links={"smashed": told})
    assert said.epsilon is None and any("keeps a memory" in w for w in said.why)
    kept = link(NOISE)._replace(init=lambda like: np.zeros(like.shape, np.float32))
    chained = jsplit.chain(kept, quantize(8))
    said = about(vanilla(), links={"smashed": chained})
    assert said.epsilon is None and any("keeps a memory" in w for w in said.why)


def test_views_see_that_numbers_of_records_cross_and_what_the_differences_are_of():
    raw = jsplit.segment(lambda x: x[:, ::-1] + 1, inputs=["x"], name="h")
    top = jsplit.segment(lambda w, h: h @ w, init=lambda key, h: h[0])
    loss = lambda y, label: (y - label) ** 2  # noqa: E731
    bare = jsplit.vanilla(raw, top, loss=loss)
    made = replace(bare, holds={"client": ("x", "row"), "server": ("label",)})
    links = {"h": (differences(jsplit.identity), None)}
    seen = jsplit.privacy.views(made, batches()[0], links=links)["server"].receives[0]
    assert [str(proof) for proof in seen.gives] == [
        "has up to 1 of 1 entries of `row`, rounded",
        "is `x`",
    ]
    assert set(seen.fields) == {"x", "row"}


def test_what_reads_no_number_of_records_is_refused_with_the_way_to_have_it():
    refused(
        "reads `row`, which is no field and no node of `client`; it has `x`, `h`. Who "
        "holds a field that only links read is said by `dataclasses.replace(topology",
        lambda: jsplit.fused(pair(), optax.sgd(0.1), links={"h": differences()}),
    )
    bad = differences()._replace(receiver=lambda like: ())
    refused(
        "`receiver` of the link of the activation `h` must be a jsplit.Receiver",
        lambda: trainer(jsplit.fused, {"h": (bad, None)}),
    )
