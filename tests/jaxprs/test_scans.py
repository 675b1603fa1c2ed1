"""A scan over layers, written as several, computes bit for bit what it computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.jaxprs.flat import flatten, variable
from jsplit.jaxprs.macs import macs
from jsplit.jaxprs.rows import Rows, Writer
from jsplit.jaxprs.scans import scan_of, write_divided
from jsplit.jaxprs.slices import backward_slice, evaluate
from jsplit.jaxprs.tags import untagged

LAYERS = 5


def model(weights, shared, x, **options):
    """A carried array, a count, a mask that stays, and results of each layer."""

    def layer(carry, own):
        x, count, mask = carry
        w, key = own
        noise = jax.random.normal(key, x.shape) * mask
        new = jnp.tanh(x @ w + shared) + noise / (1 + count)
        return (new, count + 2, mask), (new.sum(), w, count)

    keys = jax.random.split(jax.random.key(0), LAYERS)
    begin = (x, jnp.int32(0), x > 0)
    carry, rows = jax.lax.scan(layer, begin, (2 * weights, keys), **options)
    return carry, rows


def given():
    rng = np.random.default_rng(0)
    shapes = (LAYERS, 3, 3), (3,), (4, 3)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def divided(places, **options):
    flat = flatten(jax.make_jaxpr(lambda *a: model(*a, **options))(*given()))
    writer = Writer()
    for e in flat.equations:
        scan = scan_of(e)
        if scan is None:
            writer.copy(e)
        else:
            # Only `x` is an input: what depends on weights alone does not move.
            moving = {flat.invars[2]}
            write_divided(writer, scan_of(writer.renamed(e)), places, moving, str)
    return flat, writer.finished(flat)


def run(flat):
    values = dict(zip(flat.invars, given(), strict=True))
    return evaluate(flat, flat.equations, flat.outvars, values)


def names(flat):
    """Of each place, the variable."""
    return {
        untagged(e.eqn.params["name"])[0]: e.writes[0]
        for e in flat.equations
        if e.eqn.primitive.name == "name"
    }


@pytest.mark.parametrize(
    ("places", "options"), [((), {}), ((2,), {"unroll": 3}), ((1, 2, 4), {})]
)
def test_a_scan_in_several_gives_the_same_bits(places, options):
    whole, several = divided(places, **options)
    lengths = [
        e.eqn.params["length"]
        for e in several.equations
        if e.eqn.primitive.name == "scan" and len(e.eqn.outvars) > 1
    ]
    assert lengths == list(np.diff([0, *places, LAYERS]))
    assert [*names(several)] == [str(k) for k in (*places, LAYERS)]
    for ours, theirs in zip(run(several), run(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_multiply_accumulates_of_the_parts_add_up():
    whole, several = divided((2,))

    def count(flat):
        eqns = [e.eqn for e in flat.equations]
        return macs(flat.empty.replace(eqns=eqns))

    assert count(several) == count(whole) == LAYERS * 4 * 3 * 3


def test_what_follows_a_place_reads_its_own_rows_and_nothing_before_it():
    _, several = divided((2,))
    at = names(several)["2"]
    piece = backward_slice(several, several.outvars[:1], [at])
    # `x` for the mask, which no layer changes; the count is counted anew.
    assert piece.reads == {at, *several.invars}
    # Before it one scan of two layers, whose only result is the count.
    scans = [e.eqn for e in piece.equations if e.eqn.primitive.name == "scan"]
    assert [e.params["length"] for e in scans] == [2, 3]
    assert len(scans[0].outvars) == 1


MADE = {
    "cast": lambda w: w.astype(jnp.bfloat16) * 2,
    "transposed": lambda w: jnp.exp(w.transpose(1, 0, 2)).transpose(1, 2, 0),
    "reshaped": lambda w: w.reshape(LAYERS, 9)[:, None],
    "reduced": lambda w: (w - w.mean((1, 2), keepdims=True)).max(2),
    "broadcast": lambda w: jnp.broadcast_to(w[:, :, None], (LAYERS, 3, 2, 3)),
    "normed over layers": lambda w: w / jnp.linalg.norm(w, axis=0),
}


@pytest.mark.parametrize("kind", MADE)
def test_rows_of_what_is_made_of_pieces_need_the_pieces_alone(kind):
    """But what mixes the layers needs all, and has the same numbers too."""
    whole = given()[0]
    flat = flatten(jax.make_jaxpr(MADE[kind])(whole))
    pieces = [variable(jax.ShapeDtypeStruct((n, 3, 3), whole.dtype)) for n in (2, 3)]
    writer = Writer()
    writer.called[flat.invars[0]] = writer.concatenated(pieces, 0, ())
    for e in flat.equations:
        writer.copy(e)
    out = writer.rows(writer.now(flat.outvars[0]), Rows(0, 2, LAYERS), ())
    done = writer.finished(flat)
    piece = backward_slice(done, [out])
    assert piece.reads == {*pieces[kind != "normed over layers" :]}
    values = dict(zip(pieces, (whole[:2], whole[2:]), strict=True))
    (found,) = evaluate(done, piece.equations, [out], values)
    np.testing.assert_array_equal(found, MADE[kind](whole)[2:])
