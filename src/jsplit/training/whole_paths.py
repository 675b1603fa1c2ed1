"""What optimizers are given of layers of a stack: under the path of the whole stack.

A mask or a label by path (`path[-1].key != "bias"`) then says of some layers of a stack
what it says of all, and split training equals training the whole.
"""

from __future__ import annotations

import jax

from jsplit.core.paths import is_nested
from jsplit.core.pieces import piece_of
from jsplit.core.pytrees import PyTree


def without_pieces(tree: PyTree) -> PyTree:
    """A tree in which a piece that is alone lies where the whole array would.

    Its leaves are the same, in the same order. Several pieces of one array at one node
    stay as they are.

    Args:
        tree: nested dictionaries, as parameters by node; others are given back.
    """
    # What has no pieces keeps its type, which need not be a dictionary.
    if not is_nested(tree) or not has_pieces(tree):
        return tree
    if len(tree) == 1:
        [(key, value)] = tree.items()
        if piece_of(key) is not None:
            return value
    return {key: without_pieces(value) for key, value in tree.items()}


def refuse_several(party: str, tree: PyTree) -> None:
    """Refuse several layers of one stack that a node trains by themselves.

    `split` makes none: it has them of frozen copies alone, which no optimizer sees.

    Args:
        party: whose.
        tree: its weights, by node.

    Raises:
        ValueError: since a mask by path would not mean them.
    """
    if has_pieces(without_pieces(tree)):
        raise ValueError(
            f"`{party}` trains several parts of one stack of layers at one node, and a "
            "mask or a label by path would not find them; give each a node of its own."
        )


def with_pieces(tree: PyTree, like: PyTree) -> PyTree:
    """The inverse: the leaves of a tree in the structure that it had.

    Args:
        tree: of which `without_pieces(like)` has the structure.
        like: with its pieces.
    """
    structure = jax.tree.structure(without_pieces(like))
    return jax.tree.structure(like).unflatten(structure.flatten_up_to(tree))


def has_pieces(tree: PyTree) -> bool:
    """Whether a tree has layers of a stack that is divided."""
    if not is_nested(tree):
        return False
    return any(piece_of(k) is not None or has_pieces(x) for k, x in tree.items())
