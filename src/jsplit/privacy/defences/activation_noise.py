"""`gaussian` and `laplace`: a record's activation clipped to a norm, with noise of its size.

The only defences of a cut that may carry a guarantee; `guarantee` says whether it does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import frexp, isfinite
from numbers import Real

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import shown
from jsplit.core.links import Own, stateless
from jsplit.core.strength import Strength, at_most
from jsplit.privacy.defences.records import (
    arrays,
    checked_scale,
    norms,
    sent_as,
    vectors,
)
from jsplit.privacy.guarantees.grid import grid_laplace, grid_noise, on_grid
from jsplit.privacy.guarantees.mechanism import Mechanism

_MOST = {"gaussian": 100, "laplace": 80}
"""Noise of more is too many steps of the grid for numbers of 32 bits."""


def gaussian(clip: float, scale: float | Strength) -> Link:
    """Clip each record's vector to an L2 norm, and add secret normal noise.

    Of a record, all numbers that cross are one vector h, in whatever arrays
    they lie. What is sent is `h min(1, clip / |h|) + N(0, (scale clip)^2 I)`.
    The noise is unbiased; the clipping is not, for vectors that are longer.
    Another draw for each record, step and call of inference, from the
    sender's own secret, so the receiver cannot take it off. Two clipped
    vectors differ by at most `2 clip`, so one crossing has
    `mu = 2 / scale` (`jsplit.privacy.gaussian_epsilon`). Whether that is a
    guarantee for a record depends on the training of what computes h:
    `jsplit.privacy.guarantee` says it. Clipped numbers and noise are rounded to
    multiples of about `clip / 1024` (a power of two), numbers toward zero, so
    that the last bits of a sum say nothing of what was added to what. Numbers must
    be finite: a record that has NaN or infinity crosses as NaN, which no noise hides
    (`nonfinite` of trainers finds it), and `guarantee` says so.

    Args:
        clip: the largest L2 norm of a record's vector.
        scale: deviation of the noise of each number, in units of `clip`, at
            most 100; 0 clips alone. A `jsplit.Strength` can be set between
            steps.

    Returns:
        A secret `Link` whose payload has the shapes of the value, and that
        declares its `Mechanism`.

    Raises:
        ValueError: if `clip` is not positive and finite, or `scale` negative or
            not finite; where a step is traced, if an array that crosses is not
            floating or has no axis of records.

    References:
        Dwork & Roth, `The algorithmic foundations of differential privacy
        <https://doi.org/10.1561/0400000042>`_, 2014, appendix A.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import gaussian
        >>> link = gaussian(clip=1.0, scale=jsplit.Strength("noise", 0.5))
        >>> own = {"gaussian_scale": jnp.float32(0)}
        >>> h = jnp.array([[3.0, 4.0], [0.0, 0.5]])
        >>> sent, _ = link.encode((), h, jax.random.key(0), own)
        >>> print(sent)
        [[0.6 0.8]
         [0.  0.5]]
        >>> link.secret, link.mechanism.scale
        (True, 'noise')
    """
    return _noisy("gaussian", clip, scale, norms, grid_noise)


def laplace(clip: float, scale: float | Strength) -> Link:
    """Clip each record's vector to an L1 norm, and add secret Laplace noise.

    As `gaussian`, with the sum of absolute values for the norm, and noise of
    the density `exp(-|x| / b) / 2b` with `b = scale clip` for each number: its
    deviation is `sqrt(2) scale clip`. One crossing has `epsilon = 2 / scale`
    and no delta (`jsplit.privacy.laplace_epsilon`). Clipped numbers are rounded
    toward zero to multiples of about `clip / 1024`, and the noise is drawn as
    such multiples (`jsplit.privacy.grid_laplace`).

    Args:
        clip: the largest L1 norm of a record's vector.
        scale: b in units of `clip`, at most 80; 0 clips alone. A
            `jsplit.Strength` can be set between steps.

    Returns:
        A secret `Link`, as of `gaussian`.

    Raises:
        ValueError: as `gaussian`.

    References:
        Dwork et al., `Calibrating noise to sensitivity in private data analysis
        <https://doi.org/10.1007/11681878_14>`_, 2006, section 3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import laplace
        >>> link = laplace(clip=1.0, scale=0.0)
        >>> own = {"laplace_scale": jnp.float32(0)}
        >>> h = jnp.array([[3.0, 1.0], [0.0, 0.5]])
        >>> sent, _ = link.encode((), h, jax.random.key(0), own)
        >>> print(sent)
        [[0.75 0.25]
         [0.   0.5 ]]
    """

    def sums(rows: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(rows), axis=1, keepdims=True)

    return _noisy("laplace", clip, scale, sums, grid_laplace)


def _noisy(
    kind: str,
    clip: float,
    scale: float | Strength,
    norm: Callable[[jax.Array], jax.Array],
    draw: Callable[[jax.Array, jax.Array, jax.Array, float], jax.Array],
) -> Link:
    """A link that clips records by a norm and adds noise of one sort, both on a grid."""
    is_number = isinstance(clip, Real) and not isinstance(clip, bool)
    if not is_number or not 0 < clip or not isfinite(clip):
        raise ValueError(f"`clip` must be positive and finite, got {shown(clip)}.")
    scale = checked_scale("scale", scale)
    first = scale.value if isinstance(scale, Strength) else scale
    if first > _MOST[kind]:
        raise ValueError(f"`scale` must be at most {_MOST[kind]}, got {shown(first)}.")
    if isinstance(scale, Strength):
        # What is set later is refused too, before it is computed with.
        scale = at_most(scale, _MOST[kind])
    name = f"{kind}_scale"
    step = 2.0 ** (frexp(clip)[1] - 11)

    def encode(value: PyTree, key: jax.Array, own: Own) -> PyTree:
        rows = vectors(value, kind)
        size = norm(rows)
        # A product with 1 keeps all bits of a record that is short enough.
        clipped = rows * jnp.where(size > clip, clip / size, 1)
        drawn = draw(key, clipped, own[name] * clip, step)
        noisy = (on_grid(clipped, step) + drawn).astype(clipped.dtype)
        # And so does this: a sum with 0 would make 0 of -0.
        return arrays(jnp.where(own[name] > 0, noisy, clipped), value)

    return stateless(
        encode,
        sent_as,
        secret=True,
        strengths={name: scale},
        mechanism=Mechanism(
            kind,
            clip=float(clip),
            # By the name under which the sender's state has it.
            scale=scale.name if isinstance(scale, Strength) else scale,
            secret=True,
            grid=step / clip,
        ),
    )
