"""Differentiation at a cut: the part of a pytree that has a cotangent, and vjps that hold only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree


def floating(tree: PyTree) -> PyTree:
    """The part of a pytree that can be differentiated: `None` in the place of every other leaf.

    Cotangents and gradients have this form; `put_back` is the inverse."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None, tree)


def put_back(tree: PyTree, part: PyTree) -> PyTree:
    """`tree` with the leaves of `part` in the place of its own, wherever `part` has one."""
    return jax.tree.map(lambda x, new: x if new is None else new, tree, part)


def add(trees: Sequence[PyTree]) -> PyTree:
    first, *others = trees
    for tree in others:
        first = jax.tree.map(jnp.add, first, tree)
    return first


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
        return cls([x for x, k in zip(leaves, places, strict=True) if k is None], places, structure)

    def __call__(self, cotangents: PyTree, had: PyTree) -> PyTree:
        new, leaves = iter(self.new), jax.tree.leaves(had)
        return self.structure.unflatten([next(new) if k is None else leaves[k] for k in self.places])(cotangents)

    def tree_flatten(self):
        return (self.new,), (self.places, self.structure)

    @classmethod
    def tree_unflatten(cls, known, children):
        return cls(children[0], *known)
