"""Noise of labels as `guarantee` is told of it: of which fields, and how many answers it makes.

A record with several labels, as of tokens, gives as many answers, and each tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.topology.graph import Topology


def entries_of(
    fields: Mapping[str, PyTree] | None, responses: Mapping[str, Mechanism]
) -> dict[str, int]:
    """How many labels of each field a record has, each of which has an answer.

    Args:
        fields: a batch, or none: then it is not known.
        responses: by field, the noise of its labels.
    """
    return {
        f: sum(int(np.prod(np.shape(x)[1:])) for x in jax.tree.leaves(fields[f]))
        for f in responses
        if fields is not None and f in fields
    }


def check_responses(given: Mapping[str, Mechanism], topology: Topology) -> None:
    """Refuse `labels` that are no fields, or noise that is no mechanism."""
    for field, mechanism in given.items():
        if field not in topology.fields:
            raise ValueError(f"`labels` names `{field}`, which is no field.")
        if not isinstance(mechanism, Mechanism):
            raise ValueError(
                f"`labels` of `{field}` must be a Mechanism, got {shown(mechanism)}."
            )
