"""The vjp of a segment as a pytree that goes from one turn to the next.

It holds only what its party has not anyway, and cannot compute again of what is frozen
at little cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
from jax.extend.core import Var, jaxpr_as_fun

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import TreeDef
from jsplit.jaxprs.computed_again import ComputedAgain, computed_again
from jsplit.jaxprs.flat import flatten


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
            `None`: it is new, or computed again.
        structure: of the vjp.
        again: what computes leaves of the vjp of what the party has, if anything does.
    """

    new: list[jax.Array]
    places: tuple[int | None, ...] = field(metadata={"static": True})
    structure: TreeDef = field(metadata={"static": True})
    again: ComputedAgain | None = field(default=None, metadata={"static": True})

    @classmethod
    def of(
        cls,
        pull: Callable[[PyTree], PyTree],
        had: PyTree,
        again: ComputedAgain | None = None,
    ) -> Pullback:
        """`pull` without the leaves of `had`, and without those that `again` computes."""
        # Within one trace, what is the same array is the same object.
        known = {id(x): k for k, x in enumerate(jax.tree.leaves(had))}
        leaves, structure = jax.tree.flatten(pull)
        places = tuple(known.get(id(x)) for x in leaves)
        anew = set(again.numbers) if again else set()
        new = [x for k, x in enumerate(leaves) if places[k] is None and k not in anew]
        return cls(new, places, structure, again)

    def __call__(self, cotangents: PyTree, had: PyTree) -> PyTree:
        """The vjp at some cotangents, with the leaves of `had` back in their places."""
        new, leaves = iter(self.new), jax.tree.leaves(had)
        anew: dict[int, jax.Array] = {}
        if self.again is not None:
            anew.update(zip(self.again.numbers, self.again(leaves), strict=True))
        held: list[jax.Array] = []
        for number, place in enumerate(self.places):
            if number in anew:
                held.append(anew[number])
            else:
                held.append(next(new) if place is None else leaves[place])
        return self.structure.unflatten(held)(cotangents)


def run_for_pullback(
    run: Callable[..., tuple[PyTree, ...]],
    given: Sequence[PyTree],
    had: PyTree,
    frozen: PyTree,
) -> tuple[PyTree, ...]:
    """Run a function whose last result is a vjp, and give a `Pullback` in its place.

    Args:
        run: the function.
        given: its arguments.
        had: what the party will have when the vjp is called.
        frozen: of that, what no step changes. What the vjp holds of it alone is
            computed again where that costs little.

    Returns:
        The results of `run`, with the `Pullback` in the place of the vjp.
    """
    if not jax.tree.leaves(frozen):
        *results, pull = run(*given)
        return (*results, Pullback.of(pull, had))
    # Traced once: the same program is looked at and run.
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(*given)
    leaves = jax.tree.leaves(given)
    found = jaxpr_as_fun(closed)(*leaves)
    *results, pull = jax.tree.unflatten(jax.tree.structure(shapes), found)

    flat = flatten(closed, remat=False)
    still = {id(x) for x in jax.tree.leaves(frozen)}
    pairs = zip(leaves, flat.invars, strict=True)
    variables: dict[int, Var] = {id(x): v for x, v in pairs if id(x) in still}
    at = [variables.get(id(x)) for x in jax.tree.leaves(had)]
    own = len(flat.outvars) - len(jax.tree.leaves(pull))
    again = computed_again(flat, flat.outvars[own:], at)
    return (*results, Pullback.of(pull, had, again))
