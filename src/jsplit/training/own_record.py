"""What one party records of a step over a network: what it sent, what it got, its own records.

It is told nothing that others keep to themselves, and so has nothing more to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from jsplit.core.base import Fields
from jsplit.training.recording import Crossed, Passage
from jsplit.training.step_numbers import Norms


class PartyRecord(NamedTuple):
    """What one party has seen of one step; what `jsplit.party.run` hands to `record`.

    Attributes:
        party: by the name that it has in the topology; of a client among several,
            its role.
        step: the number of the step, from 0.
        crossed: by message that it sent or received, a `jsplit.Passage`, what
            crossed, as in `jsplit.Recorded`. Of what it sent, `value` is what the
            receiver decodes, computed here.
        fields: its own fields of that step's batch, [batch, ...].
        weight: how much each record counted, [batch]; `None` where all count alike.
            In the row of a record of weight 0 another one crossed.
        losses: those that it computes, by name.
        client: whose turn it was, where clients take turns; else "".
        norms: of its gradients and updates, if it has asked for them and has
            parameters.
        hyperparams: that its optimizer used, by name, if it has asked for them.

    Example:
        >>> import jsplit
        >>> jsplit.PartyRecord("client", 0, {}, {}).losses
        {}
    """

    party: str
    step: int
    crossed: Mapping[Passage, Crossed]
    fields: Fields
    weight: ArrayLike | None = None
    losses: Mapping[str, jax.Array] = {}
    client: str = ""
    norms: Norms | None = None
    hyperparams: Mapping[str, jax.Array] = {}
