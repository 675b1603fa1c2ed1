"""A weight that several segments of one whole model read, as an output layer its embedding."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


# Compared by identity: the same path in another model, or in another split of this
# one, is another weight. `dataclasses.replace` of a segment keeps it.
@dataclass(frozen=True, eq=False)
class Tied:
    """A weight that several segments of `jsplit.split` read, and one of them owns.

    All segments that read it hold this one object, and are equal to the whole model
    only where one party has them all.

    Attributes:
        path: to the weight, in the nested dictionaries of parameters.
        owner: the name of the segment whose parameters have it.
        readers: the names of all segments that read it, in order, the owner's too.
        ways: of each reader, the steps from the weight to its value, for errors.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> def model(weights, x):
        ...     return jsplit.cut(x @ weights["w"], "h") @ weights["w"].T
        >>> init = lambda key, x: {"w": jnp.ones((3, 2))}
        >>> (weight,) = jsplit.split(model, jnp.ones((4, 3)), init=init)["output"].tied
        >>> weight.path, weight.owner, weight.readers
        (('w',), 'h', ('h', 'output'))
        >>> weight.ways[1]
        'w -> transpose -> dot_general -> output'
    """

    path: tuple[Hashable, ...]
    owner: str
    readers: tuple[str, ...]
    ways: tuple[str, ...]

    @property
    def dotted(self) -> str:
        """The path as users write it.

        Returns:
            Keys with dots between them.

        Example:
            >>> import jsplit
            >>> jsplit.Tied(("embed", "embedding"), "h", ("h", "output"), ("", "")).dotted
            'embed.embedding'
        """
        return ".".join(map(str, self.path))
