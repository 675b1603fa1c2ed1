"""Which of the values that a step leaves are finite: flags on the device, names on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

Watched = tuple[tuple[str, tuple[str, ...]], ...]
"""By party, in words, what is looked at."""


# A pytree whose names are static, so that it can leave a compiled step, and be
# stacked by a loop over steps.
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Finite:
    """Whether each value that a step leaves is finite.

    The values are the losses, and what each party keeps: parameters, statistics,
    optimizer state and the memory of its links; and whether integers that only pick
    an entry, as labels do in a cross-entropy, are in range.

    Attributes:
        flags: by party, bool [..., values].
        names: by party, what the values are.
        step: of several steps, the number of the first that leaves a value
            that is not, counted from 1, int32 [...]; 0: there is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit import Finite
        >>> found = Finite(
        ...     {"server": jnp.array([False, True])},
        ...     (("server", ("the loss `loss`", "its optimizer state")),),
        ... )
        >>> bool(found.all()), found.nonfinite()
        (False, ['the loss `loss` at `server`'])
    """

    flags: Mapping[str, jax.Array]
    names: Watched = field(metadata={"static": True})
    step: jax.Array | None = None

    def all(self) -> jax.Array:
        """Whether all values are finite.

        Returns:
            bool [...], of the leading axes of the flags.

        Example:
            >>> import jax.numpy as jnp
            >>> from jsplit import Finite
            >>> flags = {"server": jnp.array([[True], [False]])}
            >>> Finite(flags, (("server", ("the loss `loss`",)),)).all().tolist()
            [True, False]
        """
        of_each = [x.all(-1) for x in self.flags.values()]
        return jnp.stack(jnp.broadcast_arrays(*of_each)).all(0)

    def nonfinite(self) -> list[str]:
        """Name what is not finite, of one step or in any of several.

        Returns:
            One text for each value, naming its party.

        Example:
            >>> import jax.numpy as jnp
            >>> from jsplit import Finite
            >>> flags = {"server": jnp.array([True])}
            >>> Finite(flags, (("server", ("the loss `loss`",)),)).nonfinite()
            []
        """
        found: list[str] = []
        for party, names in self.names:
            flags = np.asarray(self.flags[party]).reshape(-1, len(names))
            for place, name in enumerate(names):
                if not flags[:, place].all():
                    found.append(f"{name} at `{party}`")
        return found


def together(found: Sequence[Finite | None]) -> Finite | None:
    """The flags of several batches of one evaluation as those of one."""
    flags = [x.flags for x in found if x is not None]
    if not flags or found[0] is None:
        return None
    return Finite(
        {p: jnp.stack([x[p] for x in flags]).all(0) for p in flags[0]}, found[0].names
    )


def is_finite(tree: object) -> jax.Array:
    """Whether every floating number of a pytree is finite, bool []."""
    return _all([_is_finite(x) for x in _floating(tree)])


def stays_finite(new: object, old: object) -> jax.Array:
    """Whether every number of a pytree is finite that was so before, bool [].

    A least value so far, say, begins with infinity. It may stay so, and not become NaN.
    """
    pairs = zip(_floating(new), _floating(old), strict=True)
    return _all([_stays_finite(x, was) for x, was in pairs])


def few_numbers(memory: object) -> list[jax.Array]:
    """What of an optimizer's state may be infinite by design: numbers, and rows of them."""
    # The best loss of a plateau, say, begins with infinity; of many clients it is a row
    # of such numbers. What is kept for each parameter does not.
    return [x for x in _floating(memory) if jnp.ndim(x) < 2]


def has_no_fault(new: object, before: list[jax.Array]) -> jax.Array:
    """Whether an optimizer's state is finite, but for numbers that were not before, bool [].

    Args:
        new: the state.
        before: `few_numbers` of that before.
    """
    pairs = zip(few_numbers(new), before, strict=True)
    found = [_stays_finite(x, was) for x, was in pairs]
    return _all(found + [_is_finite(x) for x in _floating(new) if jnp.ndim(x) > 1])


def _stays_finite(x: jax.Array, was: jax.Array) -> jax.Array:
    became_nan = jnp.isnan(x) & ~jnp.isnan(was)
    return (jnp.isfinite(x) | (~jnp.isfinite(was) & ~became_nan)).all()


def _floating(tree: object) -> list[jax.Array]:
    return [
        x
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact) and jnp.size(x)
    ]


def _all(found: list[jax.Array]) -> jax.Array:
    return jnp.stack(found).all() if found else jax.lax.full((), True)


def _is_finite(x: jax.Array) -> jax.Array:
    if jnp.ndim(x) == 0:
        return jnp.isfinite(x)
    # Sums of rows, since NaN and infinity stay in a sum: a CPU has a fast kernel for a
    # product with a vector, and none for a largest magnitude. Scaled down, finite
    # numbers never add up to infinity; what becomes 0 by that is finite anyway.
    rows = x.reshape(x.shape[0], -1) if x.ndim > 1 else x[None]
    wide = rows.astype(at_least_float32(rows.dtype))
    scale = 2.0 ** -(12 + wide.shape[1].bit_length())
    return jnp.isfinite(wide @ jax.lax.full((wide.shape[1],), scale, wide.dtype)).all()


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which numbers of a dtype are added: float32 for all narrower floats."""
    # JAX promotes float8 with nothing.
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return jnp.dtype(jnp.float32) if narrow else jnp.promote_types(dtype, jnp.float32)


def names_by_party(
    found: Mapping[str, Sequence[str]],
) -> Watched:
    """The names of values, in the form that `Finite` has them."""
    return tuple((party, tuple(names)) for party, names in found.items())
