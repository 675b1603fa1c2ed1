"""Convolutions on a CPU: which of them XLA runs slowly there, and what stands in their place.

In loops XLA is fast with one layout of operands only; gradients never have it,
and take 5 to 200 times as long as outside (jax-ml/jax#12868). Grouped
convolutions and those in three dimensions are slow everywhere. The forms are in
`conv_forms`; when each is taken is in `conv_choice`.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.lax import ConvDimensionNumbers

from jsplit.jaxprs.conv_choice import choose
from jsplit.jaxprs.conv_layout import FLOATS, OWN, Choice, Convolution
from jsplit.jaxprs.flat import on_one_device, shape_of

IN_ORDER = "operands in order"


def form_of(eqn: JaxprEqn) -> Choice | None:
    """The form of a convolution.

    Args:
        eqn: any equation.

    Returns:
        What computes its result of its operands; `None` where XLA's own is as fast, or
        where it is no convolution.
    """
    if eqn.primitive.name != "conv_general_dilated":
        return None
    if not all(map(on_one_device, (*eqn.invars, *eqn.outvars))):
        return None
    x, w = map(shape_of, eqn.invars)
    out = shape_of(eqn.outvars[0])
    # Sums in a narrower type would be rounded otherwise than XLA's.
    if {x.dtype, w.dtype} != {out.dtype} or out.dtype not in FLOATS:
        return None
    numbers = cast(ConvDimensionNumbers, eqn.params["dimension_numbers"])
    to_x, to_w, back = _moves(numbers)
    conv = _read(eqn)
    name, compute = choose(conv, _moved(x.shape, to_x), _moved(w.shape, to_w))
    in_order = all(m == tuple(range(len(m))) for m in (to_x, to_w, back))
    # Always, and not only in loops: whoever wraps a step in a loop compiles it anew, and
    # this has been done by then. Elsewhere XLA does the same by itself.
    if name == OWN and in_order:
        return None

    def form(x: jax.Array, w: jax.Array) -> jax.Array:
        found = compute(jnp.transpose(x, to_x), jnp.transpose(w, to_w))
        return jnp.transpose(found, back)

    return Choice(IN_ORDER if name == OWN else name, form)


def _read(eqn: JaxprEqn) -> Convolution:
    p = eqn.params
    return Convolution(
        p["window_strides"],
        tuple(p["padding"]),
        p["lhs_dilation"],
        p["rhs_dilation"],
        p["feature_group_count"],
        p["batch_group_count"],
        p["precision"],
        p["preferred_element_type"],
    )


_Axes = tuple[int, ...]


def _moves(numbers: ConvDimensionNumbers) -> tuple[_Axes, _Axes, _Axes]:
    """The transpositions of both operands into order, and of the result back."""
    batch, features, *space = numbers.lhs_spec
    to_x = (batch, *space, features)
    outputs, features, *space = numbers.rhs_spec
    to_w = (*space, features, outputs)
    batch, features, *space = numbers.out_spec
    place = (batch, *space, features)
    return to_x, to_w, tuple(int(i) for i in np.argsort(place))


def _moved(shape: _Axes, axes: _Axes) -> _Axes:
    return tuple(shape[a] for a in axes)
