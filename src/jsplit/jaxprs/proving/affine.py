"""Sums of entries of fields, followed through what adds, moves and scales entries.

Their factors are what a primitive makes of each entry's being 1 and all others 0. So a
field that is mixed, in one message or in several, is found where the sums can be solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jsplit.jaxprs.proving.facts import NONE, Affine, Fact

_LARGEST = 1 << 20  # factors that are computed: two records of 350 numbers each
_FIRST = """
conv_general_dilated cumsum conj copy copy_p div dynamic_slice expand_dims fft gather imag
name neg real reduce_sum reduce_window_sum reshape rev slice split squeeze stop_gradient tile
transpose unstack broadcast_in_dim
""".split()
# Of each linear primitive the arguments that may be sums; all others are factors or places.
_LINEAR: dict[str, Callable[[int], bool]] = {
    **dict.fromkeys(_FIRST, lambda i: i == 0),
    **dict.fromkeys(
        ("add", "add_any", "sub", "concatenate", "stack", "complex"), lambda i: True
    ),
    **dict.fromkeys(("pad", "dynamic_update_slice"), lambda i: i < 2),
    "select_n": lambda i: i > 0,
}
_ADDS = {"add", "add_any", "sub"}
# One of two arguments, whichever.
_PRODUCTS = {"mul", "dot_general"}
_MOVES = "copy expand_dims reshape rev slice squeeze transpose".split()

Rule = Callable[[Sequence[Fact]], list[Fact]]


def of_entries(ids: np.ndarray) -> Affine:
    """Each entry of an array as an entry of a field, by their numbers."""
    basis = np.unique(ids)

    def rows() -> np.ndarray:
        return (basis.reshape(-1, *[1] * ids.ndim) == ids).astype(np.float32)

    return Affine(basis, _kept(rows, len(basis) * ids.size), True)


def _kept(
    rows: Callable[[], np.ndarray | None], size: int
) -> Callable[[], np.ndarray | None]:
    """Computed once, if asked for, and not where there are too many."""
    return cache(rows) if size <= _LARGEST else lambda: None


def carried(
    eqn: JaxprEqn, facts: Sequence[Fact], results: list[Fact], rule: Rule
) -> list[Fact]:
    """The results of an equation with the sums that they are.

    Args:
        eqn: the equation.
        facts: of its arguments.
        results: what is proven of them without sums.
        rule: the same for other arguments: what is proven entry by entry.
    """
    if not any(f.affine for f in facts):
        return results
    found = _linear(eqn, facts, results)
    return _told(eqn, facts, results, rule) if found is None else found


def _linear(
    eqn: JaxprEqn, facts: Sequence[Fact], results: list[Fact]
) -> list[Fact] | None:
    """Results that are sums of the sums; `None`: they are not, as far as is known."""
    name = eqn.primitive.name
    if name == "convert_element_type":
        x, to = facts[0], results[0].dtype
        # What rounds is no sum any more.
        exact = jnp.issubdtype(to, jnp.inexact) and to.itemsize >= 4
        exact = exact and (x.dtype.kind in "iu" or to.itemsize >= x.dtype.itemsize)
        pure = x.affine is not None and x.affine.pure
        return [_with(results[0], facts, x.affine)] if exact and pure else None
    if name in _PRODUCTS:
        summed = [f.affine is not None for f in facts]
        if sum(summed) != 1:
            return None
    elif name in _LINEAR:
        summed = [_LINEAR[name](i) for i in range(len(facts))]
    else:
        return None
    sums = [f for f, of in zip(facts, summed, strict=True) if of]
    factors = [f.value() for f, of in zip(facts, summed, strict=True) if not of]
    fits = all(f.affine is None or f.affine.pure for f in sums)
    fits = fits and all(
        f.affine is None for f, of in zip(facts, summed, strict=True) if not of
    )
    # In 16 bits factors would be rounded, and whole numbers wrap around.
    fits = fits and all(
        f.dtype.name in ("float32", "float64", "complex64", "complex128")
        or (not f.affine and f.const)
        for f in (*sums, *results)
    )
    if not fits or any(v is None for v in factors):
        return None
    bases = [f.affine.basis for f in sums if f.affine]
    basis = np.unique(np.concatenate(bases))
    largest = max(int(np.prod(f.shape)) for f in (*sums, *results)) * len(basis)

    def all_rows() -> tuple[np.ndarray | None, ...]:
        return _evaluated(eqn, facts, summed, basis, len(results))

    held = cache(all_rows) if largest <= _LARGEST else lambda: (None,) * len(results)
    return [
        _with(r, sums, Affine(basis, lambda i=i: held()[i], True), name in _ADDS)
        for i, r in enumerate(results)
    ]


def _with(
    result: Fact, facts: Sequence[Fact], affine: Affine | None, added: bool = False
) -> Fact:
    """A result with its sums, and with the conditions of what it is made of."""
    bearing = [f for f in facts if f.affine]
    # What observers lack of a term that is the same for all records stays in the sum.
    terms = [f.unknown for f in facts if added and not f.affine and f.clean]
    return replace(
        result,
        affine=affine,
        key=result.key.union(*(f.key for f in bearing), *terms),
        rounded=result.rounded or any(f.rounded for f in bearing),
    )


def _evaluated(
    eqn: JaxprEqn,
    facts: Sequence[Fact],
    summed: Sequence[bool],
    basis: np.ndarray,
    count: int,
) -> tuple[np.ndarray | None, ...]:
    """What a linear primitive makes of each number of the basis."""
    nothing = (None,) * count
    args: list[np.ndarray] = []
    axes: list[int | None] = []
    for f, of in zip(facts, summed, strict=True):
        axes.append(0 if of and f.affine else None)
        if not of:
            args.append(np.asarray(f.value()))
        elif f.affine:
            rows = f.affine.rows()
            if rows is None:
                return nothing
            wide = np.zeros((len(basis), *f.shape), f.dtype)
            wide[np.searchsorted(basis, f.affine.basis)] = rows
            args.append(wide)
        else:
            # What observers have they take off; of anything else nothing is known.
            unknown = not f.const and not f.clean
            args.append(np.full(f.shape, np.nan if unknown else 0, f.dtype))
    params = dict(eqn.params)
    if "precision" in params:
        params["precision"] = (jax.lax.Precision.HIGHEST,) * 2
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            found = jax.vmap(
                lambda *a: eqn.primitive.bind(*a, **params), tuple(axes), 0
            )(*map(jnp.asarray, args))
    except Exception:
        # What cannot be run by itself is no sum that anything is proven by.
        return nothing
    several = found if eqn.primitive.multiple_results else [found]
    return tuple(np.asarray(x) for x in several)


def _told(
    eqn: JaxprEqn, facts: Sequence[Fact], results: list[Fact], rule: Rule
) -> list[Fact]:
    """Results that tell sums entry by entry, by the rules for entries of fields."""
    givers = [f for f in facts if f.affine]
    sizes = [int(np.prod(f.shape)) for f in givers]
    ends = np.cumsum(sizes)
    numbered = {
        id(f): np.arange(end - size, end).reshape(f.shape)
        for f, size, end in zip(givers, sizes, ends, strict=True)
    }
    shadows = {
        id(f): replace(f, ids=numbered[id(f)], block=None, slope=1) for f in givers
    }
    found = rule([shadows.get(id(f), f) for f in facts])
    pure = eqn.primitive.name in _MOVES and all(
        f.affine.pure for f in givers if f.affine
    )
    return [
        r if s.ids is None or s.some else _picked(r, s, givers, pure)
        for r, s in zip(results, found, strict=True)
    ]


def _picked(result: Fact, shadow: Fact, givers: Sequence[Fact], pure: bool) -> Fact:
    """A result whose entries tell the sums that numbers say."""
    assert shadow.ids is not None
    at = shadow.ids
    basis = np.unique(np.concatenate([f.affine.basis for f in givers if f.affine]))

    def rows() -> np.ndarray | None:
        wide: list[np.ndarray] = []
        for f in givers:
            assert f.affine is not None
            own = f.affine.rows()
            if own is None:
                return None
            flat = np.zeros((len(basis), own[0].size), own.dtype)
            flat[np.searchsorted(basis, f.affine.basis)] = own.reshape(len(own), -1)
            wide.append(flat)
        every = np.concatenate(wide, axis=1)
        return np.where(at == NONE, np.nan, every[:, np.where(at == NONE, 0, at)])

    return replace(
        result,
        affine=Affine(basis, _kept(rows, len(basis) * at.size), pure),
        key=result.key | shadow.key,
        rounded=result.rounded or shadow.rounded,
    )
