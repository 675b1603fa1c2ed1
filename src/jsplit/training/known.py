"""What is known of a training by shapes alone: of all parties, or of some of them.

From it follows which leaves of a value need not cross (`activation_reads`,
`cotangent_reads`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax

from jsplit.core.base import PartyState, PyTree
from jsplit.core.trees import batch_of
from jsplit.training.config import Config
from jsplit.training.initial import example, first_states
from jsplit.training.walk import Wire

Unread = Mapping[Wire, frozenset[int]]
"""By message, the leaves of its value that do not cross."""


class Known(NamedTuple):
    """A training on shapes.

    Attributes:
        config: without links and a loss scale, and with a batch as one part: what is
            asked is what segments and losses need.
        parties: those whose segments and losses are known.
        states: shapes of the state of each.
        values: shapes of fields, and of what nodes compute.
        agreed: what does not cross to parties that are not known.
    """

    config: Config
    parties: frozenset[str]
    states: Mapping[str, PartyState]
    values: Mapping[str, PyTree]
    agreed: Unread


def known_of(
    config: Config,
    fields: Mapping[str, PyTree],
    parties: Collection[str] | None = None,
    values: Mapping[str, PyTree] | None = None,
    agreed: Unread | None = None,
) -> Known:
    """Initialise the segments of some parties on shapes. Computes nothing.

    Args:
        config: of the training.
        fields: arrays or their shapes, [batch, ...], as far as they are there.
        parties: those whose segments are there; by default all.
        values: shapes of what other parties compute.
        agreed: what does not cross to other parties.
    """
    topology = config.topology
    config = config._replace(
        links={},
        passing=None,
        microbatches=1,
        backward="residuals",
        loss_scale=None,
    )
    parties = frozenset(topology.parties if parties is None else parties)
    # A party may have no field at all.
    size = batch_of(fields) if fields else 0
    given = {f: example(f, x, size) for f, x in fields.items()}

    def start(key: jax.Array) -> tuple[dict[str, PartyState], dict[str, PyTree]]:
        found = dict(values or {}) | given
        states = first_states(
            config, parties, key, found, lambda *_: None, shapes_only=True
        )
        made = {n.name: found[n.name] for n in topology.segments if n.party in parties}
        return states, made

    states, made = jax.eval_shape(start, jax.eval_shape(jax.random.key, 0))
    return Known(
        config, parties, states, dict(values or {}) | given | made, agreed or {}
    )
