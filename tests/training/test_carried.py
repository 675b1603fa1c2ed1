"""Cut at its blocks, a model whose padding mask goes to each of them trains as the whole.

The row "padding mask carried" of the sweep of `test_equivalence`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jsplit
from tests.helpers import STAGES, Problem, make_topology, widen
from tests.oracles import (
    INTERPRETERS,
    adam,
    difference,
    momentum,
    optimizers,
    reference,
)
from tests.training.test_equivalence import WAYS, split

CUTS = {  # by configuration, the stages after which it is cut
    "vanilla": {"smashed": "bottom"},
    "u_shaped": {"up": "bottom", "down": "middle"},
    "multihop": {"hop1": "bottom", "hop2": "middle", "hop3": "middle2"},
}


class Block(linen.Module):
    """As BERT's: attention and a small dense part, each added and normed."""

    @linen.compact
    def __call__(self, x, mask, train):
        attend = linen.MultiHeadDotProductAttention(2, qkv_features=8)
        drop = linen.Dropout(0.1, deterministic=not train)
        x = linen.LayerNorm()(x + drop(attend(x, mask=mask)))
        return linen.LayerNorm()(x + linen.Dense(8)(linen.gelu(linen.Dense(16)(x))))


class Encoder(linen.Module):
    """Tokens, of which 0 is padding; the mask goes to all blocks and to the mean."""

    configuration: str

    @linen.compact
    def __call__(self, tokens, train):
        real = tokens > 0
        mask = linen.make_attention_mask(real, real)
        if self.configuration == "multihop":  # as lm1b's, which looks only back
            mask = linen.combine_masks(mask, linen.make_causal_mask(tokens))
        x = linen.Embed(11, 8, name="bottom")(tokens)
        for name in STAGES[self.configuration]:
            if name.startswith("middle"):
                x = Block(name=name)(x, mask, train)
        real = real[..., None]
        return linen.Dense(3, name="top")((x * real).sum(1) / real.sum(1))


def problem(configuration: str) -> Problem:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 11, (8, 5)).astype(np.int32)
    tokens[np.arange(5) >= rng.integers(1, 6, 8)[:, None]] = 0
    whole = Encoder(configuration)
    variables = widen(whole.init(jax.random.key(0), tokens, train=True))
    segments = jsplit.split(
        whole, tokens, variables=variables, cuts=CUTS[configuration], around="carry"
    )
    labels = {"label": rng.integers(0, 3, 8).astype(np.int32)}
    topology = make_topology(configuration, segments)
    return Problem(
        configuration, whole, variables, {"tokens": tokens}, labels, topology
    )


@pytest.mark.parametrize(
    ("configuration", "way"),
    [
        pytest.param(c, way, marks=() if len(WAYS) - 1 - i == j else pytest.mark.slow)
        for i, c in enumerate(CUTS)
        for j, way in enumerate(WAYS)
    ],
)
def test_split_training_with_a_carried_mask_is_whole_training(configuration, way):
    made = problem(configuration)
    whole = reference(made, momentum)
    assert max(map(difference, split(made, momentum, *way), whole)) < 1e-5


def test_the_same_in_double_precision():
    with jax.enable_x64(True):
        made = problem("vanilla")
        found = map(difference, split(made, adam, *WAYS[0]), reference(made, adam))
        assert max(found) < 1e-9


def test_a_step_sends_the_mask_and_the_cost_counts_it():
    """As booleans, one byte each, and nothing that is the tokens."""
    made = problem("vanilla")
    cost = jsplit.cost(made.topology, made.batch)
    trainer = INTERPRETERS["messages"](
        made.topology, optimizers(made.topology, momentum)
    )
    _, info = trainer.step(trainer.init(jax.random.key(1), made.batch), made.batch)
    assert [m.bytes for m in info.messages] == [m.bytes for m in cost.messages]
    up = [m for m in info.messages if m.kind == "activation"]
    (carried,) = made.topology.node["smashed"].segment.carried
    assert (carried.shape, carried.dtype) == ((5,), jnp.bool_)
    assert [m.bytes for m in up] == [8 * 5 * (8 * 4 + 1)]
    views = jsplit.privacy.views(made.topology, made.batch)
    for party in made.topology.parties[1:]:
        for seen in views[party].receives:
            assert not any(g.field == "tokens" and not g.up_to for g in seen.gives), (
                seen
            )
