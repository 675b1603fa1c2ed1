"""Whether an optimizer computes the update of each leaf from that leaf alone: by its program.

A party's optimizer sees the leaves of that party. What works leaf by leaf does not
notice; what mixes them, as a norm over all, is another than that of the whole model. No
list of names is asked: the program of an update says it, of a user's own too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from jsplit.core.checks import warn_user
from jsplit.core.paths import by_path, dotted
from jsplit.core.pytrees import PyTree
from jsplit.jaxprs.dependence import dependence


class Mixed(NamedTuple):
    """A leaf whose update is computed from others.

    Attributes:
        leaf: its path.
        other: the path of one of the others.
    """

    leaf: str
    other: str


def mixed_leaves(jaxpr: Jaxpr, weights: PyTree, memories: int) -> Mixed | None:
    """A leaf whose update depends on other leaves, now or in a later step.

    Args:
        jaxpr: of an update; its inputs begin with the leaves of `weights`, which stand
            for their gradients too, and those of the optimizer's state; its results with
            the updates and the next state.
        weights: of the party.
        memories: how many leaves the state has.

    Returns:
        The first such leaf, or `None` if each update is computed of its own leaf.
    """
    paths = [dotted(path) for path in by_path(weights).paths]
    count = len(paths)
    own = [1 << n for n in range(count)]
    rest = [0] * (len(jaxpr.invars) - count - memories)
    # What a memory has of leaves, it has of them in all later steps.
    held = [0] * memories
    while True:
        found = dependence(jaxpr, [*own, *held, *rest])
        after = found[count : count + memories]
        new = [a | b for a, b in zip(held, after, strict=True)]
        if new == held:
            break
        held = new
    for n, reads in enumerate(found[:count]):
        others = reads & ~own[n]
        if others:
            return Mixed(paths[n], paths[others.bit_length() - 1])
    return None


def warn_of_mixed_leaves(
    party: str,
    closed: ClosedJaxpr,
    weights: PyTree,
    memory: PyTree,
    again: Callable[[PyTree], tuple[ClosedJaxpr, PyTree]],
    *,
    is_flat: bool,
) -> None:
    """Warn of an optimizer that computes the update of a leaf from others.

    Args:
        party: one of several that have an optimizer.
        closed: an update, as `mixed_leaves` takes it.
        weights: of the party, by node.
        memory: the optimizer's state.
        again: the same two of other weights.
        is_flat: whether `optax.flatten` joins all leaves to one.
    """
    found = mixed_leaves(closed.jaxpr, weights, len(jax.tree.leaves(memory)))
    if found is None and len(jax.tree.leaves(weights)) == 1:
        found = _with_a_twin(weights, again)
    if found is None:
        return
    both = f"`{found.leaf}` from others too, as `{found.other}`"
    if found.leaf == found.other:
        both = f"`{found.leaf}` from all leaves"
    if is_flat:
        warn_user(
            f"`optimizer` of `{party}` has optax.flatten, which joins all leaves, so "
            "nothing tells whether what it wraps computes one from others, as a norm of "
            "all does; without it the numbers are the same, and that is told."
        )
        return
    warn_user(
        f"`optimizer` of `{party}` computes the update of {both}, as with a norm of all "
        "gradients or a check of all. It sees those of that party alone, and training "
        "the whole model those of all parties, so the two are not equal. Use what works "
        "leaf by leaf; jsplit.clip_by_global_norm clips by the norm of all."
    )


def _with_a_twin(
    weights: PyTree, again: Callable[[PyTree], tuple[ClosedJaxpr, PyTree]]
) -> Mixed | None:
    """What is mixed where a party has one leaf, so that nothing shows: with two of it."""
    [(node, one)] = [(n, x) for n, x in weights.items() if jax.tree.leaves(x)]
    two = {node: one, f"{node} ": one}
    try:
        closed, memory = again(two)
    # One with a mask of the party's own tree takes no other tree.
    except Exception:
        return None
    found = mixed_leaves(closed.jaxpr, two, len(jax.tree.leaves(memory)))
    return None if found is None else Mixed(found.leaf, found.leaf)
