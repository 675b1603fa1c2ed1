"""Which leaves of a value cross: those that the receiver reads, and cotangents that are of use.

It is found from the segments of all parties where these are in one process, and agreed
on where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import jax

from jsplit.core.base import Fields, PyTree, TrainState
from jsplit.core.trees import abstract, as_arrays
from jsplit.training.activation_reads import unread_activations
from jsplit.training.config import Config
from jsplit.training.configure import check_batch, fields_of
from jsplit.training.cotangent_reads import unread_cotangents
from jsplit.training.initial import initial_state
from jsplit.training.known import Known, Unread, known_of
from jsplit.training.walk import Wire

Claims = dict[str, dict[Wire, frozenset[int]]]
"""By party and message, the leaves that the party has no use for."""


class Passing:
    """What does not cross, by message, found when it is first asked for.

    Args:
        config: of the training, with all segments.
        fields: shapes of the fields.
    """

    def __init__(self, config: Config, fields: Mapping[str, PyTree]):
        self._config, self._fields = config, fields

    def unread(self, wire: Wire, /) -> frozenset[int]:
        """The leaves that do not cross of what a message carries."""
        return self._unread.get(wire, frozenset())

    @cached_property
    def _unread(self) -> Unread:
        try:
            known = known_of(self._config, self._fields)
            return together(claims_of(known))
        except Exception:
            # A segment or loss that does not run says so, with its name, where it is run.
            return {}


class Agreed:
    """What does not cross, as parties have agreed on it."""

    def __init__(self, unread: Unread):
        self._unread = unread

    def unread(self, wire: Wire, /) -> frozenset[int]:
        """The leaves that do not cross of what a message carries."""
        return self._unread.get(wire, frozenset())


def passing(config: Config, batch: Mapping[str, PyTree]) -> Config:
    """The configuration for batches of some shapes, with what does not cross of them."""
    return config._replace(passing=Passing(config, abstract(dict(batch))))


def by_shapes(config: Config) -> Callable[[Fields], Passing]:
    """What does not cross of a batch, found once for all batches of the same shapes.

    Training and evaluation are programs of their own and ask the same, and to answer
    takes another trace of every segment and loss.
    """
    found: dict[tuple, Passing] = {}

    def passing_for(batch: Fields) -> Passing:
        shapes = abstract(dict(batch))
        leaves, structure = jax.tree.flatten(shapes)
        at = (structure, *[(x.shape, x.dtype) for x in leaves])
        if at not in found:
            found[at] = Passing(config, shapes)
        return found[at]

    return passing_for


def first_state(
    config: Config, key: jax.Array | int, batch: Mapping[str, PyTree]
) -> TrainState:
    """The first state of all parties; what does not cross has no memory of a link.

    Args:
        config: of the training.
        key: a PRNG key or a seed.
        batch: as the user gave it.
    """
    batch = as_arrays(batch)
    # Before anything is traced: an error of a field names it.
    needed = fields_of(config.topology, losses=True)
    check_batch(config.topology, batch, needed, config.microbatches)
    return initial_state(passing(config, batch), key, batch)


def claims_of(known: Known) -> Claims:
    """What each party that is known has no use for.

    To predict nobody needs labels: without them nothing is said of cotangents.
    """
    claims = unread_activations(known)
    topology = known.config.topology
    own = [
        n for n in (*topology.segments, *topology.losses) if n.party in known.parties
    ]
    needed = {i for n in own for i in n.reads if i in topology.fields}
    if needed <= known.values.keys():
        for party, unread in unread_cotangents(known).items():
            claims[party] |= unread
    return claims


def together(claims: Mapping[str, Unread]) -> dict[Wire, frozenset[int]]:
    """What does not cross if each leaf does only that no party has no use for."""
    found: dict[Wire, frozenset[int]] = {}
    for own in claims.values():
        for wire, leaves in own.items():
            found[wire] = found.get(wire, frozenset()) | leaves
    return found
