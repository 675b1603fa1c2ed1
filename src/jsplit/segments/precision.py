"""Mixed precision: compute narrow, keep parameters and statistics wide.

It is a property of a hand-made segment, or of a whole model before it is
split (what `split` gives has its dtypes fixed): the casts are part of the
traced function, so activations cross in the narrow dtype and gradients come
back wide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.trees import narrow
from jsplit.segments.arguments import Constants
from jsplit.segments.flags import Flags
from jsplit.segments.from_model import Model, Told, segment_and_inputs
from jsplit.segments.interception import intercepting


def mixed_precision(
    model: Model,
    compute: DTypeLike = jnp.bfloat16,
    *,
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    flags: Flags | None = None,
    key: str | Sequence[str] | None = None,
    fixed: Constants | None = None,
    name: str | None = None,
) -> Segment:
    """Make a segment that casts parameters and inputs to a narrow dtype at every call.

    A submodule that is given no wider values returns none, whatever it
    computes in inside (an `Embed`, a normalisation). What `jsplit.cut`
    marks has the dtype `compute`, which halves its bytes with bfloat16.
    What the model's own code widens, by a float32 table or the float32
    carry of a recurrent cell, stays wide up to there.

    Parameters and their gradients keep their dtype (float32), and so do
    statistics; losses are computed in float32. Split it like any model:
    `split(mixed_precision(net), image)`. In float16 small cotangents are 0:
    train with `loss_scale=jsplit.DynamicScale()`.

    Args:
        model: a Flax nnx or linen module, a function or a `Segment`, as
            `segment` takes it.
        compute: a floating dtype.
        init: for functions with parameters, `init(key, *inputs) -> params`.
        variables: for linen, what `module.init` would return: start from
            these values.
        inputs: names of the positional inputs, or the name of the only one;
            by default those of the signature that have no default.
        flags: what parameters that say the mode are in training, as `segment`
            takes it.
        key: parameters that are given the key of each step, as `segment` takes
            them.
        fixed: constants by parameter, as `segment` takes them.
        name: name of the value produced.

    Returns:
        A `Segment` with the parameters of `model`, in their own dtypes.

    Raises:
        ValueError: if `compute` is not floating.

    References:
        Micikevicius et al., `Mixed precision training
        <https://arxiv.org/abs/1710.03740>`_, 2018.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from flax import nnx
        >>> made = jsplit.mixed_precision(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> params, state = made.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> output, _ = made.apply(params, state, None, jnp.ones((4, 3)), train=False)
        >>> str(params["kernel"].dtype), str(output.dtype)
        ('float32', 'bfloat16')
    """
    dtype = _floating_dtype(compute)
    told = Told(init, variables, inputs, flags, key, fixed, name)
    wide, _ = segment_and_inputs(model, None, told)

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        # Parameters are cast within: the derivative of a cast is a cast
        # back, so gradients come out as wide as the parameters.
        params, inputs = narrow(params, dtype), narrow(inputs, dtype)
        with intercepting(compute=dtype):
            output, new = wide.apply(params, state, key, *inputs, train=train)
        return narrow(output, dtype), _as_wide_as(state, new)

    # A cache would compute wide: it is given to what this makes.
    return replace(wide, apply=apply, cache=None)


def _floating_dtype(compute: DTypeLike) -> np.dtype:
    got: object = compute
    try:
        dtype = jnp.dtype(compute)
    except TypeError:
        dtype = None
    else:
        got = dtype.name

    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`compute` must be a floating dtype, got {got!r}.")
    return dtype


def _as_wide_as(state: State, new: State) -> State:
    """New statistics in the dtypes that the old ones have."""
    before = dict(jax.tree_util.tree_leaves_with_path(state))

    def widened(path: tuple[Hashable, ...], x: PyTree) -> PyTree:
        # What was not there before (the first call makes it) keeps its own
        # dtype.
        old = before.get(path)
        if old is None or old.dtype == jnp.result_type(x):
            return x
        return jnp.asarray(x, old.dtype)

    return jax.tree_util.tree_map_with_path(widened, new)
