"""The dtypes of fields, as all have agreed on them: other data would train another model.

Nothing downstream would notice: a segment runs on integers as it does on floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree

Dtypes = str | Sequence[str]
"""The dtype of a field, or those of its arrays where it is a tree of several."""


def dtypes_of(field: PyTree) -> str | list[str]:
    """The dtypes that a field has in a program.

    Args:
        field: arrays or their shapes.
    """
    found: list[str] = []
    for x in jax.tree.leaves(field):
        dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
        # As JAX narrows it: 64 bits count as 32 where it computes with these.
        numeric = dtype.kind in "biufc" if isinstance(dtype, np.dtype) else False
        found.append(
            str(jax.dtypes.canonicalize_dtype(dtype)) if numeric else str(dtype)
        )
    return found[0] if len(found) == 1 else found


def check_known(agreed: Mapping[str, Dtypes], held: Sequence[str]) -> None:
    """Refuse what an agreement says of fields that there are not, or dtypes likewise.

    Args:
        agreed: by field.
        held: the fields of all parties.

    Raises:
        ValueError: naming the field.
    """
    for name, dtypes in agreed.items():
        if name not in held:
            raise ValueError(f"`fields` names `{name}`, which no party holds.")
        for dtype in [dtypes] if isinstance(dtypes, str) else dtypes:
            try:
                jnp.dtype(dtype)
            except TypeError:
                raise ValueError(
                    f"`fields` gives `{name}` the dtype {dtype}, which there is not."
                ) from None


def check_dtypes(
    agreed: Mapping[str, Dtypes], fields: Mapping[str, PyTree], party: str
) -> None:
    """Refuse fields of other dtypes than agreed.

    Args:
        agreed: by field; one that is not named may have any.
        fields: of the party, by name.
        party: whose they are.

    Raises:
        ValueError: naming the field, both dtypes, and what to do.
    """
    for name, value in fields.items():
        if name not in agreed:
            continue
        wanted, got = agreed[name], dtypes_of(value)
        if _in_words(wanted) != _in_words(got):
            raise ValueError(
                f"`data` of `{party}`: the field `{name}` is {_in_words(got)}, the "
                f"agreement says {_in_words(wanted)}: convert it, as by "
                f"`.astype`, or make an agreement of a batch with {_in_words(got)}."
            )


def _in_words(dtypes: Dtypes) -> str:
    return dtypes if isinstance(dtypes, str) else " and ".join(dtypes) or "nothing"
