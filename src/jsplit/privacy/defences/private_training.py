"""`private`: DP-SGD of a segment: each record's gradient clipped, their sum with noise.

The clipping is in the pullback, one record at a time, so it is exact and needs nothing of
other parties; the noise is its party's own secret. Both are whole multiples of one number,
so that the last bits of a sum say nothing of what was added to what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import frexp, isfinite
from numbers import Real

import jax
import jax.numpy as jnp

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import shown
from jsplit.core.frozen import trained_part
from jsplit.core.gradient_noise import GradientNoise
from jsplit.core.strength import Strength
from jsplit.core.trees import abstract, combine, inexact_part
from jsplit.jaxprs.reads import leaves_in, reads_of, union
from jsplit.privacy.defences.own_rows import (
    check_apart,
    check_mapped,
    checked_records,
    divided,
)
from jsplit.privacy.defences.record_clipping import BITS, Grid, clipped
from jsplit.privacy.defences.records import checked_scale
from jsplit.privacy.guarantees.grid import grid_noise
from jsplit.privacy.guarantees.mechanism import Mechanism

_MOST = 40
"""Noise of more is too many steps of the grid for numbers of 32 bits."""


def private(
    segment: Segment,
    *,
    clip: float,
    scale: float | Strength,
    per: float,
    records: Sequence[str] | None = None,
) -> Segment:
    """Train a segment by DP-SGD: clip the gradient of each record, add noise to their sum.

    The gradient becomes `(sum_i g_i min(1, clip / |g_i|) + N(0, (scale clip)^2 I)) / per`,
    where `g_i / per` is what record i adds to the gradient of the segment's parameters, so
    that `g_i` is the gradient of its own loss where that loss has the same `per`:
    `jsplit.Loss(..., per=64)`. A loss that is a mean over a batch divides by the weights
    of the others instead. The clip bounds each record all the same, but then in other
    units.

    Its parameters are as private as the accountant says
    (`jsplit.privacy.sampled_epsilon`) if the cotangent of a record does not depend on
    other records, so not through a BatchNorm or a contrastive loss after it; penalties on
    its values are of that sort too. **It protects only these parameters**: of two parts
    make both private, each with `clip / sqrt(2)` and `sqrt(2) scale` for `clip` and
    `scale` in all, or the other part tells what this one hides. It hides no activation
    and no cotangent that crosses.

    One norm over the parts of all parties would clip less where the parts' norms are
    unlike, at the same epsilon. But each party would have to tell the others the norm of
    each record's gradient, without noise, and nothing could be guaranteed against them.
    Two parts that are clipped to `clip / sqrt(2)` each are never longer than `clip`.

    Clipped gradients are rounded to multiples of about `clip / 2**13` (a power of two),
    by so much shorter than `clip` that none gets longer, and so is the noise. Their sums
    are exact, so that last bits tell nothing (Mironov 2012). With many parameters that
    makes a clip of `clip (1 - sqrt(parameters) / 2**14)`, about. With the number 0 for
    `scale` nothing is rounded. Noise hides no NaN: the sum with a gradient that is not
    finite is NaN, and `guarantee` says so.

    Micro-batches, a `loss_scale` and an optimizer that reads the loss (which has no
    noise) are refused with it.

    In training records go through the segment one at a time (by `vmap`), so its program
    is followed first, and what is not shown to compute each record's result of that
    record's rows alone is refused: a segment that mixes records, or a mask [tokens,
    tokens] that is as long as the batch by chance. It holds all gradients of records
    at once: batch times parameters that are trained. What `trainable` of the segment
    freezes has none, is in no norm and gets no noise.

    Args:
        segment: without statistics (BatchNorm) and without dropout, whose parameters
            are trained.
        clip: largest L2 norm of a record's gradient over all parameters of the
            segment; infinity, with `scale` 0, is the plain run.
        scale: deviation of the noise in units of `clip`, at most 40. A
            `jsplit.Strength` can be set between steps; at 0 it still rounds.
        per: the constant that the sum over records is divided by; the expected size of
            a batch, and no matter which a batch has.
        records: names of the inputs of which each record has a row; all others are
            given whole to each record, so they must hold nothing of any. By default
            each input has rows, if that can be shown. Give it where you know better;
            then nothing is shown, and a segment that mixes records trains as if each
            were a batch of its own.

    Returns:
        A segment with the same parameters, inputs and name. Its `noise.mechanism` is
        what `guarantee(dp_sgd={"h": ...})` takes.

    Raises:
        ValueError: if `clip`, `scale` or `per` is out of range, `records` names no
            input, or nothing is trained; where a step is traced, if the segment has
            statistics, draws random numbers, has parameters that are rounded and
            neither float32 nor float64, or something that it reads is not shown to have
            an axis of records.

    References:
        Abadi et al., `Deep learning with differential privacy
        <https://arxiv.org/abs/1607.00133>`_, 2016, algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import private
        >>> bottom = jsplit.segment(
        ...     lambda w, x: x @ w, init=lambda key, x: jnp.ones((3, 2)), inputs=["x"]
        ... )
        >>> bottom = private(bottom, clip=1.0, scale=0.0, per=1.0)
        >>> x = jnp.array([[3.0, 0.0, 4.0]])
        >>> def first(w):
        ...     return bottom.apply(w, {}, None, x)[0][0, 0]
        >>> print(jax.grad(first)(jnp.ones((3, 2)))[:, 0])
        [0.6 0.  0.8]
    """
    told = checked_records(segment, records)
    clip, per, scale = _checked(clip, per, scale)
    bound = clip / per
    grid = Grid(bound, 0.0 if scale == 0 else 2.0 ** (frexp(bound)[1] - BITS))
    if not segment.trainable or segment.noise is not None:
        raise ValueError(
            "`segment` must have parameters that are trained, and no noise already."
        )

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        if not train:
            return segment.apply(params, state, key, *inputs, train=False)
        mapped, rows, shared = divided(segment, told, inputs)
        _check(segment, params, state, key, inputs, rows)
        if told is None:
            check_apart(segment, params, state, key, inputs)
        # What is frozen has no gradient of a record, and is in no norm.
        trained = inexact_part(trained_part(segment, params))
        if grid.step:
            _check_dtypes(segment, trained)

        def one(weights: PyTree, rest: PyTree, shared: PyTree, row: PyTree) -> PyTree:
            each, all_of = iter(jax.tree.map(lambda x: x[None], row)), iter(shared)
            batch = [next(each if own else all_of) for own in mapped]
            given = combine(rest, weights)
            value, _ = segment.apply(given, state, key, *batch, train=True)
            return jax.tree.map(lambda x: x[0], value)

        check_mapped(segment, one, (trained, params, shared, rows), told)
        return clipped(one, grid)(trained, params, shared, rows), state

    mechanism = None
    if isfinite(clip):
        named = scale.name if isinstance(scale, Strength) else scale
        # The norm is that of what gets the noise: in other units, as `clip` itself is
        # unless `per` is a power of two, its grid would be none.
        mechanism = Mechanism(
            *("gaussian", bound, named), secret=True, grid=grid.step / bound
        )

    def add(key: jax.Array, gradient: PyTree, scale: jax.Array) -> PyTree:
        return _with_noise(key, gradient, scale, grid) if grid.step else gradient

    # Also without noise: it tells trainers that the segment clips.
    return replace(segment, apply=apply, noise=GradientNoise(add, scale, mechanism))


def _checked(
    clip: object, per: object, scale: object
) -> tuple[float, float, float | Strength]:
    """The numbers of `private`, after they were looked at."""
    clip, per = _positive("clip", clip), _positive("per", per)
    found = checked_scale("scale", scale)
    if not isfinite(per):
        raise ValueError(f"`per` must be finite, got {shown(per)}.")
    if not isfinite(clip) and found != 0:
        raise ValueError("`clip` must be finite where there is noise in units of it.")
    first = found.value if isinstance(found, Strength) else found
    if first > _MOST:
        raise ValueError(f"`scale` must be at most {_MOST}, got {shown(first)}.")
    return clip, per, found


def _with_noise(
    key: jax.Array, gradient: PyTree, scale: jax.Array, grid: Grid
) -> PyTree:
    """A gradient with normal noise of the deviation `scale bound` on each number."""
    leaves, structure = jax.tree.flatten(gradient)
    found = []
    for i, g in enumerate(leaves):
        own = jax.random.fold_in(key, i)
        noisy = g + grid_noise(own, g, scale * grid.bound, grid.step).astype(g.dtype)
        found.append(jnp.where(scale > 0, noisy, g))
    return structure.unflatten(found)


def _check_dtypes(segment: Segment, weights: PyTree) -> None:
    """Refuse parameters whose gradients hold no exact sums of steps."""
    for x in jax.tree.leaves(weights):
        if x.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(
                f"`private` of `{segment.name or 'a segment'}`: noise takes parameters of "
                f"float32 or float64, got {x.dtype} (`jsplit.mixed_precision` computes "
                "narrow with wide parameters)."
            )


def _check(
    segment: Segment,
    params: Params,
    state: State,
    key: jax.Array | None,
    inputs: tuple[PyTree, ...],
    rows: tuple[PyTree, ...],
) -> None:
    """Refuse what has no gradient of one record."""
    name = segment.name or "a segment"
    if jax.tree.leaves(state):
        raise ValueError(
            f"`private` of `{name}`: it keeps statistics of its batches (BatchNorm), which "
            "no clipping of gradients bounds; normalise each record by itself."
        )
    leaves = jax.tree.leaves(rows)
    if (
        not leaves
        or {x.ndim for x in leaves} & {0}
        or len({len(x) for x in leaves}) > 1
    ):
        raise ValueError(
            f"`private` of `{name}`: all that it reads must have the same records along "
            "the first axis."
        )
    if key is None:
        return

    def run(key: jax.Array, params: Params, *inputs: PyTree) -> PyTree:
        return segment.apply(params, state, key, *inputs, train=True)[0]

    found = reads_of(run, *abstract((key, params, *inputs)))
    read = union(found.results, range(len(found.results)))
    if leaves_in(read, [key])[0]:
        raise ValueError(
            f"`private` of `{name}`: it draws random numbers (dropout), and would draw the "
            "same for each record."
        )


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"`{name}` must be positive, got {shown(value)}.")
    return float(value)
