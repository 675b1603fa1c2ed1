"""Mixed precision: compute narrow, keep parameters and statistics wide.

A property of a hand-made segment, or of a whole model before it is split (what `split` gives has its dtypes fixed): the casts
are part of the traced function, so activations cross in the narrow dtype and gradients come back wide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.trees import narrow
from jsplit.segments.interception import watching
from jsplit.segments.segment import segment


def mixed_precision(model: Any, compute: Any = jnp.bfloat16, **options) -> Segment:
    """The segment of `model` with floating parameters and inputs cast to `compute` at every call.

    A submodule that is given no wider values returns none, whatever it computes in inside (an `Embed`, a normalisation), and
    what `jsplit.cut` marks has the dtype `compute`, which halves its bytes with bfloat16. What the model's own
    code widens, by a float32 table or the float32 carry of a recurrent cell, stays wide up to there.
    Parameters and their gradients keep their dtype (float32), and so do statistics; losses are computed in float32.
    Split it like any model: `split(mixed_precision(net), image)`.

    Args:
        model: as for `segment`.
        compute: a floating dtype.
        options: as for `segment`.

    Raises:
        ValueError: if `compute` is not floating.

    References:
        Micikevicius et al., `Mixed precision training <https://arxiv.org/abs/1710.03740>`_, 2018.
    """
    try:
        dtype = jnp.dtype(compute)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`compute` must be a floating dtype, got {compute if dtype is None else dtype.name!r}."
        )
    wide = segment(model, **options)

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *inputs: PyTree,
        train: bool = True,
    ):
        with watching(compute=dtype):
            output, new = wide.apply(
                narrow(params, dtype), state, key, *narrow(inputs, dtype), train=train
            )
        before = dict(jax.tree_util.tree_leaves_with_path(state))
        return narrow(output, dtype), jax.tree_util.tree_map_with_path(
            lambda path, x: _as_wide_as(before.get(path), x), new
        )

    return replace(wide, apply=apply)


def _as_wide_as(old: Any, x: Any) -> Any:
    return (
        x
        if old is None or old.dtype == jnp.result_type(x)
        else jnp.asarray(x, old.dtype)
    )
