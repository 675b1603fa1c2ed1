"""A field that is not secret goes to all that read it, from who holds it, and is seen to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit


def part(*inputs):
    """A segment that adds its inputs up, with a weight."""
    return jsplit.segment(
        lambda w, *values: w * sum(values),
        init=lambda key, *v: jnp.ones(()),
        inputs=inputs,
    )


def loss(output, label):
    return (output - label) ** 2


low, reads_mask, after = part("x"), part("h", "mask"), part("h")
two = {"a": part("x1"), "b": part("x2")}
BUILT = {
    "vanilla": jsplit.vanilla(low, reads_mask, loss=loss, public="mask"),
    "u_shaped": jsplit.u_shaped(low, reads_mask, after, loss=loss, public=["mask"]),
    "multihop": jsplit.multihop(
        {"one": low, "two": after, "three": reads_mask}, loss=loss, public=["mask"]
    ),
    "vertical": jsplit.vertical(
        {"a": part("x1", "mask"), "b": part("x2")},
        reads_mask,
        loss=loss,
        merge=jnp.add,
        public=["mask"],
    ),
    "extended_vanilla": jsplit.extended_vanilla(
        {"a": part("x1", "mask")}, reads_mask, reads_mask, loss=loss, public=["mask"]
    ),
    "multitask": jsplit.multitask(
        {"a": low}, {"s": reads_mask}, losses={"s": loss}, public=["mask"]
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_who_holds_a_public_field_sends_it_to_all_others_that_read_it(name):
    topology = BUILT[name]
    readers = {n.party for n in topology.segments if "public_mask" in n.reads}
    holders = [p for p, fields in topology.holds.items() if "mask" in fields]
    sent = [c for c in topology.crossings if c.name == "public_mask"]
    assert {c.receiver for c in sent} == readers and len(holders) == 1
    assert all(c.sender == holders[0] and not c.returns for c in sent)
    assert "public_mask" in jsplit.mermaid(topology) and "public_mask" in str(topology)


def test_its_message_is_the_field_in_views_and_in_training():
    x, mask, label = (np.full((2,), n, "float32") for n in (1, 2, 5))
    batch = {"x": x, "mask": mask, "label": label}
    topology = BUILT["vanilla"]
    seen = {s.name: s for s in jsplit.privacy.views(topology, batch)["server"].receives}
    assert [str(g) for g in seen["public_mask"].gives] == ["is `mask`"]
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(jax.random.key(0), batch)
    np.testing.assert_array_equal(trainer.predict(state, batch)["output"], x + mask)
    assert [m.bytes for m in trainer.step(state, batch)[1].messages] == [8, 8, 8]


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: jsplit.vanilla(low, after, loss=loss, public="mask"),
            "`public` names `mask`, which no segment reads",
        ),
        (
            lambda: jsplit.vertical(
                two, reads_mask, loss=loss, merge=jnp.add, public=["mask"]
            ),
            r"`public` names `mask`, which none of \['a', 'b'\] reads",
        ),
    ],
    ids=["nobody reads it", "nobody is known to hold it"],
)
def test_a_public_field_without_reader_or_holder_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
