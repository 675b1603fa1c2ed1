"""Programs as they are compiled: on a CPU, what XLA runs slowly there is in another form.

Every room compiles by `jit` of this file, so all of jsplit is fast alike, and
none of them knows what is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple, TypeVar, cast

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jsplit.core.base import PyTree
from jsplit.jaxprs import convolutions, pooling
from jsplit.jaxprs.conv_layout import OWN, Choice
from jsplit.jaxprs.flat import shape_of
from jsplit.jaxprs.rewriting import Form, replaced, run_replaced

KERNELS = ("fast", "xla")
"""How operations are computed: in the form that is fastest, or as XLA does it by itself."""

_Function = TypeVar("_Function", bound=Callable[..., PyTree])


def jit(
    function: Callable[..., PyTree],
    kernels: str = "fast",
    *,
    donate_argnums: int | Sequence[int] = (),
) -> Callable[..., PyTree]:
    """Compile a function, as `jax.jit` does.

    Args:
        function: of pytrees of arrays.
        kernels: one of `KERNELS`.
        donate_argnums: as for `jax.jit`.

    Returns:
        The compiled function.
    """
    if kernels == "fast":
        function = faster_convolutions(function)
    return jax.jit(function, donate_argnums=donate_argnums)


def faster_convolutions(function: _Function) -> _Function:
    """Make a training step that convolves fast on a CPU; elsewhere it stays as it is.

    XLA has a fast kernel for some convolutions on a CPU, and not for gradients within
    loops, groups (and so `jax.vmap` over weights), three dimensions, or the gradient of
    max pooling (jax-ml/jax#12868). Each of these is replaced by a form that computes the
    same, to rounding, from the kernels that are fast. Which form it is follows from
    shapes alone. `jsplit.fused`, `jsplit.messages`, `jsplit.rounds` and
    `jsplit.party` do this by themselves; this is for a step of one's own.

    Args:
        function: a whole step, gradients included: what is differentiated after this has
            gradients of XLA's own. It is a pure function, as for `jax.jit`: what it
            changes in place is lost unless it is returned. Arguments that are no arrays
            are static.

    Returns:
        The function, to be compiled by `jax.jit`. Where JAX's default device is no CPU,
        it runs `function` itself.

    Raises:
        ValueError: when it is called, if `function` changes an object among its
            arguments in place, as an nnx module, and does not return it.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def loss(w, x):
        ...     return jax.lax.conv(x, w, (1, 1), "SAME").sum()
        >>> step = jax.jit(jsplit.faster_convolutions(jax.value_and_grad(loss)))
        >>> value, gradient = step(jnp.ones((2, 1, 3, 3)), jnp.ones((64, 1, 8, 8)))
        >>> float(value)
        61952.0
    """

    @wraps(function)
    def run(*args: PyTree, **kwargs: PyTree) -> PyTree:
        if not _on_cpu():
            return function(*args, **kwargs)
        return run_replaced(function, _rule, args, kwargs)

    return cast(_Function, run)


class ConvolutionForm(NamedTuple):
    """How one operation of a program is computed on a CPU.

    Attributes:
        operation: the primitive of JAX.
        shapes: of its operands.
        form: what computes it.

    Example:
        >>> import jsplit
        >>> jsplit.ConvolutionForm("conv_general_dilated", ((8, 9, 3),), "planes").form
        'planes'
    """

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    form: str


def convolution_forms(
    function: Callable[..., PyTree], *args: PyTree, **kwargs: PyTree
) -> list[ConvolutionForm]:
    """Tell how `faster_convolutions` computes each convolution and gradient of max pooling.

    Args:
        function: a step, as it is given to `faster_convolutions`.
        *args: its arguments, or their shapes and dtypes.
        **kwargs: its arguments by name.

    Returns:
        One row for each operation, in the order in which they stand in the program.
        Nothing is computed. What has been replaced before is not told again: of a step
        of `jsplit.fused(...)` ask one with `kernels="xla"`.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def pooled(x):
        ...     return jax.lax.reduce_window(
        ...         x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        ...     ).sum()
        >>> for row in jsplit.convolution_forms(jax.grad(pooled), jnp.ones((2, 4, 4, 1))):
        ...     print(row.operation, row.form)
        select_and_scatter_add element by element
    """
    found: list[ConvolutionForm] = []

    def tell(eqn: JaxprEqn) -> Form | None:
        if eqn.primitive.name in ("conv_general_dilated", "select_and_scatter_add"):
            choice = _choice(eqn)
            shapes = tuple(shape_of(v).shape for v in eqn.invars)
            form = OWN if choice is None else choice.name
            found.append(ConvolutionForm(eqn.primitive.name, shapes, form))
        return None

    closed = jax.make_jaxpr(function)(*args, **kwargs)
    replaced(cast(ClosedJaxpr, closed), tell)
    return found


def _choice(eqn: JaxprEqn) -> Choice | None:
    return convolutions.form_of(eqn) or pooling.form_of(eqn)


def _rule(eqn: JaxprEqn) -> Form | None:
    choice = _choice(eqn)
    return None if choice is None else choice.compute


def _on_cpu() -> bool:
    """Whether what is compiled now will run on a CPU."""
    # A device, the name of a platform, or nothing: as `jax.default_device` was set.
    device: object = getattr(jax.config, "jax_default_device", None)
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"
