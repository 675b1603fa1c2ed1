"""The vjp of a segment as a pytree that goes from one turn to the next.

It holds only what its party has not anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import TreeDef


# Registered as a dataclass, which JAX flattens without a call into
# Python.
@jax.tree_util.register_dataclass
@dataclass
class Pullback:
    """The vjp of a segment without the arrays that its party has anyway.

    They are put back when it is called. A compiled function copies what
    it only hands through, so whatever goes from one turn to the next
    would else be held twice.

    Attributes:
        new: the arrays that the party has nowhere else.
        places: by leaf of the vjp, its place among what the party has;
            `None`: it is new.
        structure: of the vjp.
    """

    new: list[jax.Array]
    places: tuple[int | None, ...] = field(metadata={"static": True})
    structure: TreeDef = field(metadata={"static": True})

    @classmethod
    def of(cls, pull: Callable[[PyTree], PyTree], had: PyTree) -> Pullback:
        """`pull` without the leaves of `had`."""
        # Within one trace, what is the same array is the same object.
        known = {id(x): k for k, x in enumerate(jax.tree.leaves(had))}
        leaves, structure = jax.tree.flatten(pull)
        places = tuple(known.get(id(x)) for x in leaves)
        new = [x for x in leaves if id(x) not in known]
        return cls(new, places, structure)

    def __call__(self, cotangents: PyTree, had: PyTree) -> PyTree:
        """The vjp at some cotangents, with the leaves of `had` back in their places."""
        new, leaves = iter(self.new), jax.tree.leaves(had)
        held = [next(new) if k is None else leaves[k] for k in self.places]
        return self.structure.unflatten(held)(cotangents)
