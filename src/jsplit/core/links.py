"""Links from functions, and links in a row: what happens to a value on a crossing."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jsplit.core.base import Link, PyTree, State


def stateless(
    encode: Callable[[PyTree, jax.Array], PyTree],
    decode: Callable[[PyTree, PyTree], PyTree],
) -> Link:
    """A `Link` without memory from `encode(value, key) -> payload` and `decode(payload, like) -> value`."""
    return Link(
        lambda like: (), lambda state, value, key: (encode(value, key), state), decode
    )


def chain(*links: Link) -> Link:
    """Links one after another: the payload of each is the value of the next.

    `chain()` sends values as they are; `chain(a)` is `a`; decoding runs in reverse.
    """

    def walk(like: PyTree) -> tuple[State, list[PyTree]]:
        states, likes = [], []
        for link in links:
            likes.append(like)
            states.append(link.init(like))
            like, _ = jax.eval_shape(
                link.encode, states[-1], like, jax.eval_shape(jax.random.key, 0)
            )
        return tuple(states), likes

    def encode(state: State, value: PyTree, key: jax.Array) -> tuple[PyTree, State]:
        states = []
        for i, (link, s) in enumerate(zip(links, state, strict=True)):
            value, s = link.encode(s, value, jax.random.fold_in(key, i))
            states.append(s)
        return value, tuple(states)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        for link, shape in zip(reversed(links), reversed(walk(like)[1]), strict=True):
            payload = link.decode(payload, shape)
        return payload

    return (
        links[0]
        if len(links) == 1
        else Link(lambda like: walk(like)[0], encode, decode)
    )


identity = chain()
"""The link of a crossing for which none is named: the value is sent as it is."""
