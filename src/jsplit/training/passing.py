"""Which leaves of a value cross: those that the receiver reads, and cotangents that are of use.

It is found from the segments of all parties where these are in one process, and agreed
on where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import jax

from jsplit.core.base import Fields, PyTree, TrainState
from jsplit.core.secret_keys import is_in_a_trace, with_secrets
from jsplit.core.trainer import InitFn
from jsplit.core.trees import abstract, as_arrays
from jsplit.training.activation_reads import unread_activations
from jsplit.training.config import Config
from jsplit.training.configure import check_batch
from jsplit.training.cotangent_reads import unread_cotangents
from jsplit.training.crossing import secret_senders
from jsplit.training.initial import initial_state, with_drawn_secrets
from jsplit.training.known import Known, Unread, known_of
from jsplit.training.link_checks import check_fields
from jsplit.training.own_reads import training_fields
from jsplit.training.signatures import documented_as
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


def init_of(config: Config, check: Callable[[Config, Fields], None]) -> InitFn:
    """`init` of a trainer.

    Args:
        config: of the training.
        check: what else of the configuration is looked at, with a batch.
    """

    @documented_as(InitFn)
    def init(
        key: jax.Array | int,
        batch: Fields,
        *,
        secrets: Mapping[str, jax.Array] | None = None,
    ) -> TrainState:
        state = first_state(config, key, batch, secrets)
        check(config, as_arrays(batch))
        return state

    return init


def first_state(
    config: Config,
    key: jax.Array | int,
    batch: Mapping[str, PyTree],
    secrets: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """The first state of all parties; what does not cross has no memory of a link.

    Args:
        config: of the training.
        key: a PRNG key or a seed.
        batch: as the user gave it.
        secrets: secret keys by party, in the place of those from the system.

    Raises:
        ValueError: if a party needs a secret, and this is part of a program that
            would have it as a constant.
    """
    batch = as_arrays(batch)
    # Before anything is traced: an error of a field names it.
    check_batch(config.topology, batch, training_fields(config), config.microbatches)
    check_fields(config.topology, config.links, config.topology.parties, batch)
    drawing = secret_senders(config)
    missing = [p for p in drawing if p not in (secrets or {})]
    if missing and is_in_a_trace(key, batch):
        raise ValueError(
            f"`secrets` must be given within jit, vmap or scan: `{missing[0]}` sends "
            "through a link that draws secret noise, and a secret drawn here would be "
            "the same in every call of this program. Give it keys that the program is "
            f'given, as `secrets={{"{missing[0]}": key}}`, or call `init` outside.'
        )
    state = initial_state(passing(config, batch), key, batch)
    state = TrainState(with_drawn_secrets(config, state.parties))
    return state if secrets is None else with_secrets(state, secrets)


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
