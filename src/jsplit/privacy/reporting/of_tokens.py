"""Which fields of a report are tokens, and the public embeddings that were given of them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.measures.records import array_of
from jsplit.privacy.reporting.ranges import near


def are_tokens(field: PyTree) -> bool:
    """Whether a field is one array of integers, [records, positions].

    Args:
        field: of all records.
    """
    leaves = [np.asarray(x) for x in jax.tree.leaves(field)]
    return len(leaves) == 1 and leaves[0].ndim == 2 and leaves[0].dtype.kind in "iu"


def checked_tables(
    tables: Mapping[str, PyTree] | None, data: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Public embeddings by field, after they were looked at.

    Args:
        tables: by field of tokens, [vocabulary, width]; `None`: none are known.
        data: every field.

    Returns:
        The same on the host.

    Raises:
        ValueError: naming `tables`, if one is of no field of tokens, or is no table.
    """
    if tables is not None and not isinstance(tables, Mapping):
        raise ValueError(
            f"`tables` must be a dictionary of embeddings by field, got {shown(tables)}."
        )
    found: dict[str, np.ndarray] = {}
    for name, given in (tables or {}).items():
        if name not in data:
            raise ValueError(
                f"`tables` names {shown(name)}, which is no field of `data`; "
                f"{near(name, [*data])}."
            )
        if not are_tokens(data[name]):
            raise ValueError(
                f"`tables` names `{name}`, which does not hold tokens, integers "
                "[records, positions]."
            )
        table = np.asarray(array_of(f"tables[{name!r}]", given))
        if table.ndim != 2:
            raise ValueError(
                f"`tables` of `{name}` must be [vocabulary, width], got {shown(given)}."
            )
        found[name] = table
    return found
