"""Links by themselves: error feedback, differences in time, and a fixed projection."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.compress import (
    error_feedback,
    low_rank,
    quantize,
    randomized_top_k,
    temporal_differences,
    top_k,
)
from tests.training.common import INTERPRETERS, both, close, refused

RECORDS, WIDTH = 12, 5
H = np.random.default_rng(0).normal(size=(RECORDS, WIDTH)).astype(np.float32)
NEAREST = quantize(4, stochastic=False)


def differences(link=NEAREST, records=RECORDS):
    return temporal_differences(link, rows="row", records=records)


class Ends:
    """Two parties, whose programs are compiled apart."""

    def __init__(self, link, like):
        self.link, self.like = link, like
        self.mine, self.theirs = link.init(like), None
        self.encode = jax.jit(link.encode)
        if link.receiver is not None:
            self.theirs = link.receiver.init(like)
            self.decode = jax.jit(lambda s, p: link.receiver.decode(s, p, like))

    def send(self, value, step=0, **own):
        key = jax.random.key(step)
        told = [own] if self.link.reads else []
        payload, self.mine = self.encode(self.mine, value, key, *told)
        if self.theirs is None:
            return self.link.decode(payload, self.like)
        value, self.theirs = self.decode(self.theirs, payload)
        assert np.array_equal(self.link.receiver.mirror(self.mine), self.theirs)
        return value


def check(link, row):
    assert link.check is not None
    link.check({"row": row})


def shape(size, dtype="float32"):
    return jax.ShapeDtypeStruct((size, WIDTH), dtype)


@pytest.mark.parametrize("link", [top_k(2), quantize(3), randomized_top_k(2)])
def test_with_error_feedback_all_that_arrived_and_what_is_kept_is_all_that_was_sent(
    link,
):
    ends, total = Ends(error_feedback(link), shape(RECORDS)), 0
    for step in range(9):
        total = total + ends.send(H * (step + 1), step)
    [rest] = ends.mine.rest
    np.testing.assert_allclose(total + rest, 45 * H, rtol=1e-4, atol=1e-4)
    assert np.abs(total - 45 * H).max() > 1e-2


def test_what_is_kept_is_smaller_than_values_of_the_nearest_level_and_larger_of_a_random_one():
    """What arrives must be nearer than nothing would be: the docstring says so."""
    h = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    largest = []
    for link in (quantize(2, stochastic=False), quantize(2)):
        ends = Ends(error_feedback(link), jax.ShapeDtypeStruct(h.shape, h.dtype))
        for step in range(40):
            ends.send(h, step)
        largest.append(float(jnp.abs(ends.mine.rest[0]).max()))
    assert largest[0] < np.abs(h).max() and largest[1] > 2 * np.abs(h).max()


def test_error_feedback_by_record_is_of_each_record_in_whatever_order_it_comes():
    """Also of one that is there twice, and of one that has no row."""
    link = error_feedback(top_k(1), rows="row", records=RECORDS)
    ends, rng = Ends(link, shape(4)), np.random.default_rng(1)
    sent, arrived = np.zeros((2, RECORDS, WIDTH))
    for step in range(12):
        row = rng.integers(0, RECORDS, size=4)
        if step == 5:
            row = np.array([3, 3, RECORDS, -1])
        got = ends.send(jnp.asarray(H[row % RECORDS]), step, row=jnp.asarray(row))
        known = (row >= 0) & (row < RECORDS)
        if step == 5:  # without a row it goes through the link alone
            alone = jnp.asarray(H[row[2:] % RECORDS])
            payload, _ = top_k(1).encode((), alone, jax.random.key(0))
            assert (got[2:] == top_k(1).decode(payload, alone)).all()
        np.add.at(sent, row[known], H[row[known]])
        np.add.at(arrived, row[known], np.asarray(got)[known])
    np.testing.assert_allclose(arrived + ends.mine.rest[0], sent, atol=1e-4)
    assert np.abs(arrived - sent).max() > 0.1


def test_differences_of_a_value_that_stays_arrive_ever_more_exactly_in_any_order():
    """The error falls by half a level, the 14th, with each message of a record."""
    ends, rng = Ends(differences(), shape(6)), np.random.default_rng(0)
    largest, visits = np.abs(H).max(1), np.zeros(RECORDS, int)
    for step in range(8):
        row = rng.permutation(RECORDS)[:6]
        got = ends.send(jnp.asarray(H[row]), step, row=jnp.asarray(row))
        visits[row] += 1
        off = np.abs(got - H[row]).max(1)
        assert (off <= largest[row] * (1.01 / 14) ** visits[row] + 1e-6).all()
    assert visits.max() >= 4 > visits.min()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_ends_keep_the_same_bits_while_values_move(dtype):
    link = differences(jsplit.chain(quantize(3)))
    ends, rng = Ends(link, shape(6, dtype)), np.random.default_rng(0)
    for step in range(10):
        row = rng.integers(0, RECORDS, size=6)
        moved = jnp.asarray(H[row] + 0.1 * rng.normal(size=(6, WIDTH)), dtype)
        got = ends.send(moved, step, row=jnp.asarray(row, "uint8"))
        assert got.dtype == dtype


def test_of_a_record_that_is_there_twice_the_last_is_kept_and_without_a_row_nothing():
    ends = Ends(differences(jsplit.identity), shape(4))
    row = jnp.array([3, RECORDS, 3, -1])
    got = ends.send(jnp.asarray(H[:4]), row=row)
    close(got, H[:4])
    [table] = jax.tree.leaves(ends.theirs)
    assert (table[3] == H[2]).all() and jnp.count_nonzero(table) == WIDTH


def test_without_numbers_as_in_inference_values_go_through_the_link_alone():
    link, value = differences(), jnp.asarray(H)
    ends = Ends(link, shape(RECORDS))
    ends.send(2 * value, row=jnp.arange(RECORDS))
    payload, after = link.encode(ends.mine, value, jax.random.key(0), {"row": None})
    alone, _ = NEAREST.encode((), value, jax.random.key(0))
    assert (payload.payload.levels == alone.levels).all()
    assert (link.decode(payload, shape(RECORDS)) == NEAREST.decode(alone, value)).all()
    assert np.array_equal(after.rows, ends.mine.rows)


@pytest.mark.parametrize(("records", "wide"), [(255, 1), (256, 2), (65_536, 4)])
def test_a_message_of_differences_is_that_of_its_link_and_a_number_for_each_record(
    records, wide
):
    link = differences(quantize(8), records)
    sent = jax.eval_shape(
        link.encode, link.init(shape(6)), shape(6), jax.random.key(0), {"row": None}
    )[0]
    nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sent))
    assert nbytes == 6 * (WIDTH + 2 + wide)


def bottom():
    return jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jax.random.normal(key, (WIDTH, 8)) / 2,
        inputs=["x"],
        name="h",
    )


def fixed_layer(link):
    """The projection as a layer of the model, from what the link sends of unit vectors."""
    sent, _ = link.encode((), jnp.eye(8), jax.random.key(0))
    return jsplit.segment(lambda h: h @ sent @ sent.T, inputs=["h"], name="projected")


@both
def test_low_rank_trains_as_a_model_that_has_the_projection_in_it(interpreter):
    """The cotangent goes through the transpose, whether it crosses whole or in few numbers."""
    link = low_rank(3, seed=5)
    loss = lambda o, y: (o.mean(-1) - y) ** 2  # noqa: E731

    def top(reads):
        return jsplit.segment(
            lambda w, h: h @ w,
            init=lambda key, h: jax.random.normal(key, (8, 2)),
            inputs=[reads],
            name="o",
        )

    batch = {"x": H, "label": H[:, 0]}
    make = INTERPRETERS[interpreter]
    nodes = [
        jsplit.Node("h", bottom(), "client", ["x"]),
        jsplit.Node("projected", fixed_layer(link), "server", ["h"]),
        jsplit.Node("o", top("projected"), "server", ["projected"]),
        jsplit.Loss("loss", loss, "server", ["o", "label"]),
    ]
    holds = {"client": ["x"], "server": ["label"]}
    split = jsplit.vanilla(bottom(), top("h"), loss=loss)
    found = []
    for topology, links in (
        (jsplit.Topology(nodes, holds), {}),
        (split, {"h": (link, None)}),
        (split, {"h": low_rank(3, seed=5)}),
        (split, {"h": (low_rank(3, seed=6), None)}),
        (split, {"h": (link._replace(pull=None), None)}),
    ):
        trainer = make(topology, optax.sgd(0.5), links=links)
        state = trainer.init(0, batch)
        for _ in range(3):
            state, _ = trainer.step(state, batch)
        found.append([state.parties["client"].params["h"]])
    whole, one_way, both_ways, another, untransposed = found
    close(one_way, whole, 1e-5)
    close(both_ways, whole, 1e-5)
    for other in (another, untransposed):  # controls: another projection, no transpose
        with pytest.raises(AssertionError):
            close(other, whole, 1e-3)


def test_low_rank_sends_the_nearest_that_its_subspace_has_and_few_numbers_as_they_are():
    link = low_rank(3)
    value = {"h": jnp.asarray(H), "few": jnp.ones((4, 3)), "ids": jnp.arange(4)}
    payload, _ = link.encode((), value, jax.random.key(0))
    got = link.decode(payload, value)
    assert payload["h"].shape == (RECORDS, 3) and (got["few"] == 1).all()
    again, _ = link.encode((), {"h": value["h"] - got["h"]}, jax.random.key(0))
    assert jnp.abs(again["h"]).max() < 1e-5  # what is left out is at right angles


noise = jsplit.stateless(lambda v, k: v, lambda p, like: p, secret=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: error_feedback(noise), "`link` draws secret noise or states"),
        (lambda: differences(noise), "put it before, as `chain(noise, temporal_differ"),
        (lambda: differences(differences()), "`link` keeps a memory at its receiver"),
        (
            lambda: error_feedback(differences()),
            "`link` keeps a memory at its receiver",
        ),
        (lambda: error_feedback(3), "`link` must be a jsplit.Link, got int"),
        (lambda: error_feedback(top_k(1), rows="row"), "`rows` and `records` must be"),
        (
            lambda: error_feedback(top_k(1), rows="r", records=0),
            "`records` must be a pos",
        ),
        (
            lambda: temporal_differences(top_k(1), rows="", records=3),
            "`rows` must be the",
        ),
        (lambda: differences(records=True), "`records` must be a positive integer"),
        (lambda: jsplit.chain(differences(), quantize(8)), "it must be the last"),
        (lambda: low_rank(0), "`rank` must be a positive integer"),
        (lambda: low_rank(2, seed=-1), "`seed` must be from 0"),
        (lambda: low_rank(2, seed=1.5), "`seed` must be from 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    refused(message, make)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            np.array([0, 12]),
            "must number records from 0 to `records` - 1, which is 11;",
        ),
        (np.array([-1, 0]), "must number records from 0"),
        (np.array([0.0, 1.0]), "must be integers [batch], got float"),
        (np.array([[0], [1]]), "must be integers [batch], got int64[2, 1]"),
    ],
)
def test_numbers_that_are_none_are_refused_in_the_first_batch(row, message):
    refused(message, lambda: check(differences(), row))
    by_record = error_feedback(top_k(1), rows="row", records=RECORDS)
    refused(message, lambda: check(by_record, row))


def test_numbers_of_other_records_than_those_that_cross_are_refused():
    ends = Ends(differences(), shape(4))
    message = "field `row` numbers 3 records, and the value that crosses is of 4"
    refused(message, lambda: ends.send(jnp.asarray(H[:4]), row=jnp.arange(3)))
