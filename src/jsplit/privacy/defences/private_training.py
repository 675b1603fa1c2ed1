"""`private`: DP-SGD of a segment: each record's gradient clipped, their sum with noise.

The clipping is in the pullback, one record at a time, so it is exact and needs nothing of
other parties; the noise is its party's own secret.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite
from numbers import Real

import jax
import jax.numpy as jnp

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import shown
from jsplit.core.finite import at_least_float32
from jsplit.core.gradient_noise import GradientNoise
from jsplit.core.strength import Strength
from jsplit.core.trees import abstract, combine, inexact_part, is_floating
from jsplit.jaxprs.reads import leaves_in, reads_of, union
from jsplit.privacy.defences.records import checked_scale
from jsplit.privacy.guarantees.mechanism import Mechanism


def private(
    segment: Segment, *, clip: float, scale: float | Strength, per: float
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
    make both private, each with `clip / sqrt(2)` for `clip` in all, or the other part
    tells what this one hides. It hides no activation and no cotangent that crosses.

    Micro-batches and a `loss_scale` are refused with it.

    In training records go through the segment one at a time (by `vmap`), so one that
    mixes records trains as if each were a batch of its own. It holds all gradients of
    records at once: batch times parameters.

    Args:
        segment: without statistics (BatchNorm) and without dropout, whose parameters
            are trained.
        clip: largest L2 norm of a record's gradient over all parameters of the
            segment; infinity, with `scale` 0, is the plain run.
        scale: deviation of the noise in units of `clip`. A `jsplit.Strength` can be set
            between steps.
        per: the constant that the sum over records is divided by; the expected size of
            a batch, and no matter which a batch has.

    Returns:
        A segment with the same parameters, inputs and name. Its `noise.mechanism` is
        what `guarantee(dp_sgd={"h": ...})` takes.

    Raises:
        ValueError: if `clip`, `scale` or `per` is out of range, or nothing is trained;
            where a step is traced, if the segment has statistics, draws random
            numbers, or something that it reads has no axis of records.

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
    clip, per = _positive("clip", clip), _positive("per", per)
    scale = checked_scale("scale", scale)
    if not isfinite(per):
        raise ValueError(f"`per` must be finite, got {shown(per)}.")
    if not isfinite(clip) and scale != 0:
        raise ValueError("`clip` must be finite where there is noise in units of it.")
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
        _check(segment, params, state, key, inputs)

        def one(weights: PyTree, rest: PyTree, row: PyTree) -> PyTree:
            batch = jax.tree.map(lambda x: x[None], row)
            given = combine(rest, weights)
            value, _ = segment.apply(given, state, key, *batch, train=True)
            return jax.tree.map(lambda x: x[0], value)

        return _clipped(one, clip / per)(inexact_part(params), params, inputs), state

    mechanism = None
    if isfinite(clip):
        named = scale.name if isinstance(scale, Strength) else scale
        mechanism = Mechanism("gaussian", clip=clip, scale=named, secret=True)

    def add(key: jax.Array, gradient: PyTree, scale: jax.Array) -> PyTree:
        # Nothing is drawn without a clip: infinity times 0 is no number.
        bound = clip / per
        return _with_noise(key, gradient, scale, bound) if isfinite(clip) else gradient

    # Also without noise: it tells trainers that the segment clips.
    return replace(segment, apply=apply, noise=GradientNoise(add, scale, mechanism))


def _clipped(one, bound: float):
    """A function of a batch whose pullback to `weights` clips the part of each record.

    Args:
        one: `one(weights, rest, row)`, of one record.
        bound: of the L2 norm of a record's part.
    """

    def whole(weights: PyTree, rest: PyTree, inputs: PyTree) -> PyTree:
        return jax.vmap(one, (None, None, 0))(weights, rest, inputs)

    clipped = jax.custom_vjp(whole)

    def forward(weights: PyTree, rest: PyTree, inputs: PyTree):
        return whole(weights, rest, inputs), (weights, rest, inputs)

    def back(held, cotangents: PyTree):
        weights, rest, inputs = held

        def part(row: PyTree, cotangent: PyTree):
            def fn(weights: PyTree, floating: PyTree) -> PyTree:
                return inexact_part(one(weights, rest, combine(row, floating)))

            _, pull = jax.vjp(fn, weights, inexact_part(row))
            gradient, of_row = pull(cotangent)
            if bound == inf:
                return gradient, of_row
            squares = [
                jnp.sum(jnp.square(g.astype(at_least_float32(g.dtype))))
                for g in jax.tree.leaves(gradient)
            ]
            norm = jnp.sqrt(sum(squares[1:], squares[0]))
            # A product with 1 keeps all bits of what is short enough.
            factor = jnp.where(norm > bound, bound / norm, 1)
            return jax.tree.map(
                lambda g: (g * factor).astype(g.dtype), gradient
            ), of_row

        # Integers have no cotangents that could be mapped over.
        floating = jax.tree.map(
            lambda x: x if is_floating(x) else None, _numbers(cotangents)
        )
        gradients, of_inputs = jax.vmap(part)(inputs, floating)
        total = jax.tree.map(lambda g: jnp.sum(g, 0), gradients)
        # Of the parameters beside the weights, and of integers, there is none.
        return total, None, _completed(inputs, of_inputs)

    clipped.defvjp(forward, back)
    return clipped


def _numbers(cotangents: PyTree) -> PyTree:
    """Cotangents with `None` in the place of those of integers."""
    return jax.tree.map(
        lambda x: None if x.dtype == jax.dtypes.float0 else x, cotangents
    )


def _completed(inputs: PyTree, found: PyTree) -> PyTree:
    """Cotangents of inputs, in their structure."""
    leaves, structure = jax.tree.flatten(inputs)
    parts = structure.flatten_up_to(found)
    return structure.unflatten(
        jnp.zeros(x.shape, jax.dtypes.float0) if p is None else p
        for x, p in zip(leaves, parts, strict=True)
    )


def _with_noise(
    key: jax.Array, gradient: PyTree, scale: jax.Array, bound: float
) -> PyTree:
    """A gradient with normal noise of the deviation `scale bound` on each number."""
    leaves, structure = jax.tree.flatten(gradient)
    found = []
    for i, g in enumerate(leaves):
        wide = at_least_float32(g.dtype)
        draw = jax.random.normal(jax.random.fold_in(key, i), g.shape, wide)
        noisy = (g.astype(wide) + scale * bound * draw).astype(g.dtype)
        found.append(jnp.where(scale > 0, noisy, g))
    return structure.unflatten(found)


def _check(
    segment: Segment,
    params: Params,
    state: State,
    key: jax.Array | None,
    inputs: tuple[PyTree, ...],
) -> None:
    """Refuse what has no gradient of one record."""
    name = segment.name or "a segment"
    if jax.tree.leaves(state):
        raise ValueError(
            f"`private` of `{name}`: it keeps statistics of its batches (BatchNorm), which "
            "no clipping of gradients bounds; normalise each record by itself."
        )
    leaves = jax.tree.leaves(inputs)
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
