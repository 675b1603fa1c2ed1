"""Links from functions, and links in a row.

What makes a crossing smaller is in `jsplit.compress`; a link of another
sort is made of two functions by `stateless`, or, with a memory, by `Link`
itself.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from jsplit.core.base import Link, PyTree, State
from jsplit.core.typed_jax import eval_shape


def stateless(
    encode: Callable[[PyTree, jax.Array], PyTree],
    decode: Callable[[PyTree, PyTree], PyTree],
) -> Link:
    """Make a `Link` without memory from two functions.

    Args:
        encode: `encode(value, key) -> payload`, from a value to what is
            sent.
        decode: `decode(payload, like) -> value`, from what was sent to a
            value of the shapes and dtypes of `like`, a tree of
            `jax.ShapeDtypeStruct`.

    Returns:
        A `Link` whose state is `()`.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> half = jsplit.stateless(
        ...     lambda value, key: value.astype(jnp.float16),
        ...     lambda payload, like: payload.astype(like.dtype),
        ... )
        >>> payload, state = half.encode((), jnp.ones(3), jax.random.key(0))
        >>> payload.dtype, state
        (dtype('float16'), ())
    """

    def init(like: PyTree) -> State:
        return ()

    def encode_with(
        state: State, value: PyTree, key: jax.Array
    ) -> tuple[PyTree, State]:
        # The state goes through as it came: what encodes is traced, and the
        # structure of what a step carries may not change.
        return encode(value, key), state

    return Link(init, encode_with, decode)


def chain(*links: Link) -> Link:
    """Apply links one after another: the payload of each is the value of the next.

    Decoding runs in reverse. `chain()` sends values as they are; `chain(a)`
    is `a`.

    Args:
        *links: the first is applied first.

    Returns:
        A `Link` whose state is the tuple of theirs.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.chain(
        ...     jsplit.compress.cast(jnp.bfloat16), jsplit.compress.quantize(8)
        ... )
        >>> h = jnp.ones((4, 3))
        >>> payload, _ = link.encode(link.init(h), h, jax.random.key(0))
        >>> link.decode(payload, jax.typeof(h)).dtype
        dtype('float32')
    """
    # No layer around a single link: its state and its payload stay its own.
    if len(links) == 1:
        return links[0]

    def shapes_between(like: PyTree) -> tuple[list[State], list[PyTree]]:
        """Every link's first state, and the shapes of the value that it is given."""
        states: list[State] = []
        likes: list[PyTree] = []
        key = eval_shape(jax.random.key, 0)
        for link in links:
            likes.append(like)
            states.append(link.init(like))
            # By shapes alone: what the next link gets is known without a
            # value, which the receiver does not have.
            like, _ = eval_shape(link.encode, states[-1], like, key)
        return states, likes

    def init(like: PyTree) -> State:
        return tuple(shapes_between(like)[0])

    def encode(state: State, value: PyTree, key: jax.Array) -> tuple[PyTree, State]:
        after: list[State] = []
        for i, (link, own) in enumerate(zip(links, state, strict=True)):
            # A key of its own for each: two links that round by the same
            # random numbers would not be unbiased together.
            value, own = link.encode(own, value, jax.random.fold_in(key, i))
            after.append(own)
        return value, tuple(after)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        # A payload alone does not say what shapes a link must give back:
        # they are found again from those of the value, which both ends
        # know.
        likes = shapes_between(like)[1]
        for link, own in zip(reversed(links), reversed(likes), strict=True):
            payload = link.decode(payload, own)
        return payload

    return Link(init, encode, decode)


identity = chain()
"""The link of a crossing for which none is named: the value is sent as it is."""
