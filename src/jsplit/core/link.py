"""`Link`: what happens to a value on a crossing, what that draws from, and what it reads.

The records alone, and `Receiver`, the memory at the other end; what makes links of
functions is in `links`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from jsplit.core.pytrees import PyTree, State
from jsplit.core.strength import Strength


class Receiver(NamedTuple):
    """What a link keeps at the party that receives, from one message to the next.

    Every crossing and direction has a memory of its own, in the state of its receiver. In
    inference it starts anew and nothing of it is kept, as the sender's.

    Attributes:
        init: `init(like) -> state` makes the memory.
        decode: `decode(state, payload, like) -> (value, state)`, in training in the place
            of the link's own `decode`.
        mirror: `mirror(state) -> state`: the memory of the receiver as it follows from
            the sender's. Both ends keep the same, so whoever sent can tell what was
            decoded: a record of a run over a network does.

    Example:
        The difference to what was sent the last time, place by place:

        >>> import jax, jax.numpy as jnp, jsplit
        >>> def zeros(like):
        ...     return jnp.zeros(like.shape, like.dtype)
        >>> def decode(state, payload, like):
        ...     return state + payload, state + payload
        >>> link = jsplit.Link(
        ...     init=zeros,
        ...     encode=lambda state, value, key: (value - state, value),
        ...     decode=lambda payload, like: payload,
        ...     receiver=jsplit.Receiver(zeros, decode, lambda state: state),
        ... )
        >>> value, mine, theirs = jnp.ones(3), zeros(jnp.ones(3)), zeros(jnp.ones(3))
        >>> for _ in range(2):
        ...     payload, mine = link.encode(mine, value, jax.random.key(0))
        ...     got, theirs = link.receiver.decode(theirs, payload, jax.typeof(value))
        >>> print(payload, got)
        [0. 0. 0.] [1. 1. 1.]
    """

    init: Callable[[PyTree], State]
    decode: Callable[[State, PyTree, PyTree], tuple[PyTree, State]]
    mirror: Callable[[State], State]


class Link(NamedTuple):
    """What happens to a value, or to a cotangent, on a crossing from one party to another.

    `decode(encode(value))` stands outside the differentiated function: the
    receiver computes with what it decoded, the sender with what it had.

    Attributes:
        init: `init(like) -> state` makes the sender's memory, `()` if it
            needs none. Every crossing and direction has one of its own; in
            inference it starts anew.
        encode: `encode(state, value, key) -> (payload, state)`. The payload
            is what is sent. There is `None` in the place of leaves that
            nobody reads, and in a cotangent, which has the structure of
            its value, of those that have none (integers).
        decode: `decode(payload, like) -> value`, of the shapes and dtypes
            of `like`, a tree of `jax.ShapeDtypeStruct`.
        reads: names of the sender's own fields and nodes that `encode` is
            told, of the same examples. In inference a field is `None` that
            no node reads, as labels: an evaluation sends what `predict`
            sends. All are `None` where the shapes of a payload are worked
            out, as its receiver does.
        secret: whether the `key` that `encode` gets is drawn from the
            sender's secret key (`PartyState.secret`), so that no other
            party can compute it; else it follows from the seed that all
            have agreed on, and whoever receives noise can take it off
            again. In inference every call draws anew.
        strengths: numbers that `encode` is told by name, as a noise's
            deviation. One that is a `jsplit.Strength` can be set between
            steps, by the name of the strength.
        mechanism: what the link guarantees, for whoever looks for that;
            nothing here reads it. Of `jsplit.chain` a tuple of its links'.
        check: `check(fields)`, of those fields of the first batch, or of all records,
            that the link reads, by name, with their numbers: it raises a `ValueError`
            where the link is not for them. `None`: there is nothing to look at. It is
            called before the first step, outside of compiled code.
        pull: `pull(value, cotangent, key) -> cotangent`, at the sender of an activation:
            what its value gets of the cotangent that came back, with the `key` that
            `encode` had, so that noise can be drawn again. `None`: the cotangent of
            what was decoded is that of the value. On a cotangent it has no use, since
            nothing comes back of that; there a secret link with one is refused.
        receiver: a memory at the party that receives, `None` if there is none. `decode`
            is then that of a new memory, as in inference.

    With `reads` or `strengths`, `encode` has a fourth argument: a mapping by
    name, of the values and of the strengths, float32 [] each. The shapes of a
    payload must not depend on it: the receiver does not have it.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> half = jsplit.Link(
        ...     init=lambda like: (),
        ...     encode=lambda state, value, key: (value.astype(jnp.float16), state),
        ...     decode=lambda payload, like: payload.astype(like.dtype),
        ... )
        >>> h = jnp.ones((4, 3))
        >>> payload, state = half.encode(half.init(h), h, jax.random.key(0))
        >>> payload.dtype, half.decode(payload, jax.typeof(h)).dtype
        (dtype('float16'), dtype('float32'))

        Noise that the receiver cannot take off again, more of it for the
        records of class 1:

        >>> def encode(state, value, key, own):
        ...     noise = 0.1 * jax.random.normal(key, value.shape)
        ...     label = own["label"]  # None in inference
        ...     more = 1 if label is None else 1 + label[:, None]
        ...     return value + more * noise, state
        >>> noisy = jsplit.Link(
        ...     init=lambda like: (),
        ...     encode=encode,
        ...     decode=lambda payload, like: payload,
        ...     reads=("label",),
        ...     secret=True,
        ... )
        >>> noisy.encode((), h, jax.random.key(0), {"label": None})[0].shape
        (4, 3)
    """

    init: Callable[[PyTree], State]
    # Of three arguments, or of four where the link reads something.
    encode: Callable[..., tuple[PyTree, State]]
    decode: Callable[[PyTree, PyTree], PyTree]
    reads: tuple[str, ...] = ()
    secret: bool = False
    strengths: Mapping[str, float | Strength] = {}
    mechanism: object = None
    check: Callable[[Mapping[str, PyTree]], None] | None = None
    pull: Callable[[PyTree, PyTree, jax.Array], PyTree] | None = None
    receiver: Receiver | None = None

    def __hash__(self) -> int:
        # Links were always hashable, and a dictionary of strengths is not.
        return hash((self.init, self.encode, self.decode, self.reads, self.secret))
