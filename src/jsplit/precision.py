"""Mixed precision: compute narrow, keep parameters and statistics wide.

A property of a segment, or of a whole model before it is split, and of nothing else: the casts are part
of the traced function, so activations cross in the narrow dtype and gradients come back wide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jsplit.base import Params, PyTree, Segment, State
from jsplit.model import computing_in, segment


def mixed_precision(model: Any, compute: Any = jnp.bfloat16, **options) -> Segment:
    """The segment of `model` with floating parameters and inputs cast to `compute` at every call.

    Parameters and their gradients keep their dtype (float32), and so do statistics; what crosses a cut has the
    dtype `compute`, which halves its bytes with bfloat16; losses are computed in float32. Split it like any model:
    `split(mixed_precision(net), image)`.

    Args:
        model: as for `segment`.
        compute: a floating dtype.
        options: as for `segment`.

    Raises:
        ValueError: if `compute` is not floating.

    References:
        Micikevicius et al., `Mixed precision training <https://arxiv.org/abs/1710.03740>`_, 2018.
    """
    if not jnp.issubdtype(compute, jnp.floating):
        raise ValueError(f"`compute` must be a floating dtype, got {jnp.dtype(compute).name}.")
    wide = segment(computing_in(model, compute), **options)

    def narrow(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(compute) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        output, new = wide.apply(narrow(params), state, key, *map(narrow, inputs), train=train)
        return narrow(output), jax.tree.map(lambda x, old: x.astype(old.dtype), new, state)

    return replace(wide, apply=apply)
