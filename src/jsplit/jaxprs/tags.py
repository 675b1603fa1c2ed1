"""Names on values of a traced function, and finding them again.

JAX's own `checkpoint_name` leaves an equation of the primitive `name` in
the jaxpr. It is the identity, and goes through `jit`, `grad`, `vmap` and
every Flax transformation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import JaxprEqn

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import bodies

# Prefixes, since a user's own code may name values by `checkpoint_name` for
# a remat policy.
CUT = "jsplit.cut/"
"""Before the name of a value that `jsplit.cut` marked."""

MODULE = "jsplit.module/"
"""Before the path of a submodule, on what it returns while a model is traced."""

# Between a name and a path within the pytree that was named: no identifier,
# and hardly a key of a dictionary, holds it.
_END = "\x1f"


def tag_arrays(tree: PyTree, name: str) -> PyTree:
    """Name every array of a pytree.

    Args:
        tree: the arrays; what is no array stays as it is.
        name: for all of them; each also gets its path in the tree.

    Returns:
        The same values.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = []
    for path, x in leaves:
        # Numbers and strings in a pytree are no values of the program, and
        # a name would make arrays of them.
        if hasattr(x, "dtype"):
            end = jax.tree_util.keystr(path, simple=True, separator=".")
            x = checkpoint_name(x, name + _END + end)
        named.append(x)
    return structure.unflatten(named)


def untagged(tag: str) -> tuple[str, str]:
    """The name, and the path within the pytree that was named."""
    name, _, end = tag.partition(_END)
    return name, end


def tags_in_bodies(
    eqns: Iterable[JaxprEqn], outer: str = ""
) -> Iterator[tuple[str, str]]:
    """Find the names in the bodies of loops and branches, where no value can be cut.

    Args:
        eqns: the equations to look into.
        outer: the primitive in whose body they are, if they are in one.

    Yields: Each name, with the primitive of the outermost equation around
        it.
    """
    for eqn in eqns:
        if eqn.primitive.name == "name" and outer:
            yield eqn.params["name"], outer
        # The outermost is what a user must cut before or after, however
        # deep the name is.
        for body in bodies(eqn):
            yield from tags_in_bodies(body.eqns, outer or eqn.primitive.name)
