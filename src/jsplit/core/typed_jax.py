"""Functions of JAX under types that a strict checker can follow.

JAX leaves parts of these signatures open, and pyright in strict mode
refuses whatever it cannot name. A name here is JAX's own function and no
wrapper: calling it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jsplit.core.pytrees import PyTree

# Read through `Any`, so that the open parts are not looked at; what is said
# below is all that a reader, or a checker, has to know.
_jax: Any = jax
_jnp: Any = jnp

# One step of a path: a `DictKey`, `SequenceKey` or `GetAttrKey`, or what a
# container that is registered elsewhere brings.
KeyEntry = Hashable


class TreeDef(Protocol):
    """What of a `jax.tree_util.PyTreeDef` is used here.

    The class itself comes without types, and means nothing to a checker.
    """

    @property
    def num_leaves(self) -> int:
        """The number of leaves."""
        ...

    def unflatten(self, leaves: Iterable[PyTree], /) -> PyTree:
        """Put leaves into the containers."""
        ...


def is_traced(x: PyTree) -> bool:
    """Whether `x` stands for an array in a program that is being traced."""
    return isinstance(x, _jax.core.Tracer)


eval_shape: Callable[..., PyTree] = _jax.eval_shape
device_put: Callable[..., jax.Array] = _jax.device_put
constrain: Callable[..., jax.Array] = _jax.lax.with_sharding_constraint
asarray: Callable[..., jax.Array] = _jnp.asarray
from_dlpack: Callable[..., jax.Array] = _jnp.from_dlpack
zeros: Callable[..., jax.Array] = _jnp.zeros
full: Callable[..., jax.Array] = _jnp.full
key_data: Callable[..., jax.Array] = _jax.random.key_data
wrap_key_data: Callable[..., jax.Array] = _jax.random.wrap_key_data

tree_structure: Callable[[PyTree], TreeDef] = _jax.tree.structure
tree_unflatten: Callable[[TreeDef, Iterable[PyTree]], PyTree] = _jax.tree.unflatten
leaves_with_path: Callable[[PyTree], list[tuple[tuple[KeyEntry, ...], PyTree]]] = (
    _jax.tree_util.tree_leaves_with_path
)
keystr: Callable[..., str] = _jax.tree_util.keystr
register_pytree_with_keys: Callable[..., None] = (
    _jax.tree_util.register_pytree_with_keys
)
dict_key: Callable[[str], KeyEntry] = _jax.tree_util.DictKey
