"""A place where a model can be cut in two, and all of them with why the others are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jsplit.core.carried import Carried
from jsplit.core.tables import aligned, si


class CutPoint(NamedTuple):
    """A place where one value separates the model's input from its output.

    Attributes:
        name: what `split(..., cuts=[...])` takes; a submodule's path where
            one returns the value.
        shape: of the value, for one example (without the batch axis).
        dtype: of the value.
        params: number of parameters on the input's side.
        param_bytes: their size in bytes.
        bytes_per_example: size in bytes of what crosses, for one example: of
            the value, and of what is carried.
        forward_macs: multiply-accumulates of the forward pass on the
            input's side, for one example (at the batch size of the example
            given).
        backward_macs: multiply-accumulates back to all parameters on the
            input's side, for one example.
        carried: what goes with the value, since it would go around it.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> def model(weight, x):
        ...     return jnp.tanh(jsplit.cut(x @ weight, "h")) * 2
        >>> init = lambda key, x: jnp.zeros((3, 2))
        >>> point = jsplit.cut_points(model, jnp.ones((4, 3)), init=init)[0]
        >>> point.name, point.shape, point.params, point.bytes_per_example
        ('h', (2,), 6, 8)
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    params: int
    param_bytes: int
    bytes_per_example: int
    forward_macs: float
    backward_macs: float
    carried: tuple[Carried, ...] = ()

    @property
    def flops(self) -> float:
        """FLOPs of a training step on the input's side, for one example.

        Two for each multiply-accumulate, forward and back.

        Returns:
            Their number.

        Example:
            >>> import numpy as np, jsplit
            >>> point = jsplit.CutPoint("h", (2,), np.dtype("float32"), 6, 24, 8, 6.0, 6.0)
            >>> point.flops
            24.0
        """
        return 2 * (self.forward_macs + self.backward_macs)


_PATH = re.compile(r" \([^()]* -> [^()]*\)")
_NAMED = 4  # places of one reason


class Reasons(dict[str, str]):
    """Why places are no cut points, by their names.

    Printed, places of the same reason stand together, with that of the first of them.

    Example:
        >>> from jsplit.slicing.cut_point import Reasons
        >>> reasons = Reasons({f"layer.{n}": f"`layer.{n}` is tied." for n in range(9)})
        >>> reasons
        layer.0, layer.1, layer.2, layer.3 and 5 more: `layer.0` is tied.
    """

    def __repr__(self) -> str:
        groups: dict[str, list[str]] = {}
        for name, reason in self.items():
            # Without what is of that place alone: its name, and the way around it.
            key = _PATH.sub("", reason.replace(f"`{name}`", "`it`"))
            groups.setdefault(key, []).append(name)
        rows: list[str] = []
        for names in groups.values():
            more = len(names) - _NAMED
            rest = f" and {more} more" if more > 0 else ""
            rows.append(f"{', '.join(names[:_NAMED])}{rest}: {self[names[0]]}")
        return "\n".join(rows)


# A list, since that is what it is used as. Why a place is none is found when
# somebody asks: every name of a deep model costs a slice.
class CutPoints(list[CutPoint]):
    """The places where a model can be cut, from the input on; and why others are none.

    Printed it is a table; where there is no place, its text says why.

    Args:
        points: the places.
        why: what finds the reasons, by the names of other places, when
            somebody asks for them.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> def model(x):
        ...     return jsplit.cut(jnp.sin(x), "h") + x
        >>> points = jsplit.cut_points(model, jnp.ones((4, 3)))
        >>> list(points), "h" in points.why
        ([], True)
        >>> print(points.why["h"][:41])
        a skip connection goes around the cut `h`
        >>> print(jsplit.cut_points(lambda x: jsplit.cut(jnp.sin(x), "h") + 1, jnp.ones((4, 3))))
        place  shape  bytes an example  parameters before it  carrying
        h      3                    12                     0
    """

    def __init__(self, points: Iterable[CutPoint], why: Callable[[], dict[str, str]]):
        super().__init__(points)
        self._why = why

    @cached_property
    def why(self) -> Reasons:
        """Why named places are no cut points.

        Returns:
            By the name of the place: a tied weight, a skip connection, a raw
            input that it holds, or what else `split` would say. Printed, places of the
            same reason stand together.

        Example:
            >>> import jax.numpy as jnp, jsplit
            >>> points = jsplit.cut_points(lambda x: jsplit.cut(x, "x"), jnp.ones((4, 3)))
            >>> len(points.why)
            1
        """
        return Reasons(self._why())

    def __str__(self) -> str:
        if not self:
            return repr(self)
        head = (
            "place",
            "shape",
            "bytes an example",
            "parameters before it",
            "carrying",
        )
        rows = [
            (
                p.name,
                "x".join(map(str, p.shape)),
                si(p.bytes_per_example),
                si(p.params),
                ", ".join(c.name for c in p.carried),
            )
            for p in self
        ]
        return "\n".join(aligned(head, rows, words=(0, 1, 4)))

    def __repr__(self) -> str:
        if self:
            return super().__repr__()
        rows = [f"  {row}" for row in repr(self.why).splitlines()]
        return "\n".join(["no cut points", *rows])
