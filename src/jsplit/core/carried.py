"""The record of a value that goes with a cut, since the other side reads it too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Carried(NamedTuple):
    """A value that `jsplit.split(..., around="carry")` sends along with a cut.

    Attributes:
        name: its key in the value of the cut: that of a submodule or marked value, or
            what it is of, `"mask of tokens"` where it is of true and false.
        shape: for one example, without the batch axis.
        dtype: of its numbers.
        bytes_per_example: its size, for one example.
        made_from: the inputs of the model that it is computed from.
        how: how, as a short expression.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> def model(w, tokens):
        ...     real = tokens > 0
        ...     h = jsplit.cut(w[tokens] * real[..., None], "h")
        ...     return (h * real[..., None]).sum(1)
        >>> init = lambda key, tokens: jnp.ones((9, 2))
        >>> tokens = jnp.ones((4, 6), "int32")
        >>> parts = jsplit.split(model, tokens, init=init, around="carry")
        >>> parts["h"]
        Segment(tokens -> h carrying mask of tokens)
        >>> carried = parts["h"].carried[0]
        >>> carried.how, carried.bytes_per_example, carried.made_from
        ('tokens > 0', 6, ('tokens',))
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    bytes_per_example: int
    made_from: tuple[str, ...]
    how: str = ""
