"""What a call of a session was given: kept, so that it can be given once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.ids import Id
from jsplit.core.secret_keys import fresh_words
from jsplit.core.trees import batch_of


class Given(NamedTuple):
    """One call.

    Attributes:
        size: how many positions, or records.
        fields: of whoever asks, by name.
        ids: of the records, where others look them up.
        words: what tells it from other calls where noise is drawn.
    """

    size: int
    fields: Mapping[str, PyTree]
    ids: Sequence[Id] | None
    words: np.ndarray


def records(
    fields: Mapping[str, PyTree], names: Sequence[Id] | None, most: int
) -> Iterator[Given]:
    """Records in calls of so many at a time.

    Args:
        fields: by name, [record, ...].
        names: their ids, one for each.
        most: records of a call.

    Raises:
        ValueError: if there are not as many ids as records.
    """
    size = batch_of(fields)
    if names is not None and len(names) != size:
        raise ValueError(
            f"`ids` must be one for each of {size} records, got {len(names)}."
        )
    for at in range(0, size, most):
        rows = slice(at, at + most)
        part = {f: jax.tree.map(lambda x, r=rows: x[r], v) for f, v in fields.items()}
        chosen = None if names is None else names[rows]
        yield Given(batch_of(part), part, chosen, fresh_words())
