"""Differentiation at a cut: the part of a pytree that has a cotangent, and vjps that hold only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jsplit.core.base import PyTree


@jax.tree_util.register_pytree_node_class
class Pullback:
    """The vjp of a segment without the arrays that its party has anyway: they are put back when it is called.

    A compiled function copies what it only hands through, so whatever goes from one turn to the next would be held twice.
    """

    def __init__(self, new: Sequence, places: tuple, structure: Any):
        self.new, self.places, self.structure = new, places, structure

    @classmethod
    def of(cls, pull: Any, had: PyTree) -> Pullback:
        """`pull` without the leaves of `had`."""
        known = {id(x): k for k, x in enumerate(jax.tree.leaves(had))}
        leaves, structure = jax.tree.flatten(pull)
        places = tuple(known.get(id(x)) for x in leaves)
        return cls(
            [x for x, k in zip(leaves, places, strict=True) if k is None],
            places,
            structure,
        )

    def __call__(self, cotangents: PyTree, had: PyTree) -> PyTree:
        new, leaves = iter(self.new), jax.tree.leaves(had)
        return self.structure.unflatten(
            [next(new) if k is None else leaves[k] for k in self.places]
        )(cotangents)

    def tree_flatten(self):
        return (self.new,), (self.places, self.structure)

    @classmethod
    def tree_unflatten(cls, known, children):
        return cls(children[0], *known)
