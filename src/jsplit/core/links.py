"""Links from functions, and links in a row.

What makes a crossing smaller is in `jsplit.compress`; a link of another
sort is made of two functions by `stateless`, or, with a memory, by `Link`
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np

from jsplit.core.base import Link, PyTree, State
from jsplit.core.receiving import receiver_of_chain
from jsplit.core.strength import Strength
from jsplit.core.typed_jax import eval_shape

Own = Mapping[str, PyTree]
"""What a link is told of its sender's, by name."""


def stateless(
    encode: Callable[..., PyTree],
    decode: Callable[[PyTree, PyTree], PyTree],
    *,
    reads: tuple[str, ...] = (),
    secret: bool = False,
    strengths: Mapping[str, float | Strength] | None = None,
    mechanism: object = None,
    check: Callable[[Own], None] | None = None,
    pull: Callable[[PyTree, PyTree, jax.Array], PyTree] | None = None,
) -> Link:
    """Make a `Link` without memory from two functions.

    Args:
        encode: `encode(value, key) -> payload`, from a value to what is
            sent; with `reads` or `strengths` `encode(value, key, own)`.
        decode: `decode(payload, like) -> value`, from what was sent to a
            value of the shapes and dtypes of `like`, a tree of
            `jax.ShapeDtypeStruct`.
        reads: names of the sender's own fields and nodes, as of a `Link`.
        secret: whether `key` is the sender's secret, as of a `Link`.
        strengths: numbers by name, as of a `Link`.
        mechanism: what the link guarantees, as of a `Link`.
        check: refuses fields that it is not for, as of a `Link`.
        pull: the pullback of a cotangent, as of a `Link`.

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

        Gaussian noise of deviation 0.1 that only the sender can compute:

        >>> noisy = jsplit.stateless(
        ...     lambda value, key: value + 0.1 * jax.random.normal(key, value.shape),
        ...     lambda payload, like: payload,
        ...     secret=True,
        ... )
    """

    def init(like: PyTree) -> State:
        return ()

    def encode_with(
        state: State, value: PyTree, key: jax.Array, *own: Own
    ) -> tuple[PyTree, State]:
        # The state goes through as it came: what encodes is traced, and the
        # structure of what a step carries may not change.
        return encode(value, key, *own), state

    strengths = {} if strengths is None else strengths
    return Link(
        init, encode_with, decode, reads, secret, strengths, mechanism, check, pull
    )


def asked_of(link: Link) -> tuple[str, ...]:
    """The names that a link's `encode` is told; none where it has three arguments."""
    return (*link.reads, *link.strengths)


def encode_by(
    link: Link, state: State, value: PyTree, key: jax.Array, own: Own
) -> tuple[PyTree, State]:
    """The payload and the new memory of a link, which is told what it asks for.

    Args:
        link: which encodes.
        state: its memory.
        value: what is sent.
        key: what it draws from.
        own: of the sender, by name; a superset of what the link asks for.
    """
    asked = asked_of(link)
    if not asked:
        return link.encode(state, value, key)
    return link.encode(state, value, key, {name: own[name] for name in asked})


def encoded(link: Link, like: PyTree) -> tuple[PyTree, State]:
    """The shapes of a link's payload, and its first memory. Computes no payload.

    Args:
        link: which encodes.
        like: shapes and dtypes of the value.
    """
    first = link.init(like)
    # Nothing of what it reads: the receiver knows no shapes of it, and must find
    # the same as the sender.
    nothing: dict[str, PyTree] = dict.fromkeys(link.reads)
    number = jax.ShapeDtypeStruct((), np.dtype("float32"))
    own = nothing | dict.fromkeys(link.strengths, number)
    # The key itself is abstract as well: making one would run a program on a device.
    key = eval_shape(jax.random.key, 0)

    def encode(state: State, value: PyTree, key: jax.Array, own: Own) -> PyTree:
        return encode_by(link, state, value, key, own)[0]

    return eval_shape(encode, first, like, key, own), first


def chain(*links: Link) -> Link:
    """Apply links one after another: the payload of each is the value of the next.

    Decoding runs in reverse. `chain()` sends values as they are; `chain(a)`
    is `a`. It reads what any of them reads, and is secret if one of them is:
    then all draw from the sender's secret, each from a key of its own.

    Args:
        *links: the first is applied first.

    Returns:
        A `Link` whose state is the tuple of theirs, and so is its `mechanism` if
        any has one.

    Raises:
        ValueError: if two links have different strengths of one name, or one that is
            not the first has a `pull`, whose value would have to be kept, or one that
            is not the last has a memory at its receiver.

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
        for link in links:
            likes.append(like)
            # By shapes alone: what the next link gets is known without a
            # value, which the receiver does not have.
            like, first = encoded(link, like)
            states.append(first)
        return states, likes

    def init(like: PyTree) -> State:
        return tuple(shapes_between(like)[0])

    def encode(
        state: State, value: PyTree, key: jax.Array, own_values: Own | None = None
    ) -> tuple[PyTree, State]:
        after: list[State] = []
        for i, (link, own) in enumerate(zip(links, state, strict=True)):
            # A key of its own for each: two links that round by the same
            # random numbers would not be unbiased together.
            its_key = jax.random.fold_in(key, i)
            value, own = encode_by(link, own, value, its_key, own_values or {})
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

    mechanisms = tuple(link.mechanism for link in links)
    return Link(
        init,
        encode,
        decode,
        # In the order of the links, each once.
        reads=tuple(dict.fromkeys(n for link in links for n in link.reads)),
        secret=any(link.secret for link in links),
        strengths=_strengths_of(links),
        mechanism=None if set(map(type, mechanisms)) <= {type(None)} else mechanisms,
        check=_check_of(links),
        pull=_pull_of(links),
        receiver=receiver_of_chain(links, lambda like: shapes_between(like)[1]),
    )


def _check_of(links: tuple[Link, ...]) -> Callable[[Own], None] | None:
    """What all links refuse."""
    if all(link.check is None for link in links):
        return None

    def check(fields: Own) -> None:
        for link in links:
            if link.check is not None:
                link.check({n: fields[n] for n in link.reads if n in fields})

    return check


def _pull_of(
    links: tuple[Link, ...],
) -> Callable[[PyTree, PyTree, jax.Array], PyTree] | None:
    """The pullback of the first link, with the key that it encodes with."""
    if any(link.pull is not None for link in links[1:]):
        raise ValueError("`links` have a `pull` behind another link: it must be first.")
    first = links[0].pull if links else None
    if first is None:
        return None

    def pull(value: PyTree, cotangent: PyTree, key: jax.Array) -> PyTree:
        return first(value, cotangent, jax.random.fold_in(key, 0))

    return pull


def _strengths_of(links: tuple[Link, ...]) -> dict[str, float | Strength]:
    """The strengths of all links, by name."""
    found: dict[str, float | Strength] = {}
    for link in links:
        for name, x in link.strengths.items():
            # One number stands in the state for both, so they must begin alike.
            if found.setdefault(name, x) != x:
                raise ValueError(
                    f"`links` have two strengths `{name}`, {found[name]} and {x}: give "
                    "one of them another name."
                )
    return found


identity = chain()
"""The link of a crossing for which none is named: the value is sent as it is."""
