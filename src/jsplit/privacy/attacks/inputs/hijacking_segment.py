"""`hijack`: a segment that a malicious party runs in the place of the one agreed on.

With `topology.replace` a training is hijacked as it is, in any configuration: the others' code,
what crosses, and its shapes stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.attacks.inputs.hijackers import Hijackers, hijackers_for
from jsplit.privacy.attacks.inputs.hijacking import (
    Hijacker,
    answer,
    check_hijacker,
    start_hijacker,
)
from jsplit.privacy.attacks.inputs.inversion import Range
from jsplit.privacy.measures.images import ends

_OWN = "hijacker"


class Hijacking(NamedTuple):
    """What a hijacker puts in the place of its part.

    Attributes:
        segment: reads the activation and the public records, by the names given.
        networks: what it trains.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.privacy import hijack
        >>> hijack((3,), (4,), lambda h: h, inputs=["h", "mine"], width=2).segment
        Segment(h, mine -> ...)
    """

    segment: Segment
    networks: Hijackers

    def reconstructed(self, state: State, h: jax.Array) -> jax.Array:
        """Records, as the hijacker sees them in activations.

        Args:
            state: of its segment, `state.parties[party].state[name]`.
            h: activations, [batch, ...].

        Returns:
            Records, [batch, ...].

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from jsplit.privacy import hijack
            >>> own = hijack((3,), (4,), lambda h: h, inputs=["h", "mine"], width=2)
            >>> h, public = jnp.ones((5, 3)), jnp.ones((5, 4))
            >>> _, state = own.segment.init(jax.random.key(0), h, public)
            >>> own.reconstructed(state, h).shape
            (5, 4)
        """
        pair, _ = state[_OWN].params
        value, _ = self.networks.decoder.apply(
            pair["decoder"], {}, None, h, train=False
        )
        return value


def hijack(
    activation: tuple[int, ...],
    record: tuple[int, ...],
    hand: Callable[[jax.Array], PyTree],
    *,
    inputs: tuple[str, str] | list[str],
    name: str | None = None,
    networks: Hijackers | None = None,
    width: int = 64,
    data_range: Range | None = None,
    positive: bool = False,
    learning_rate: float = 1e-4,
    learning_rate_judge: float = 1e-4,
    gradient_penalty: float = 500.0,
) -> Hijacking:
    """A segment that sends back the cotangent of feature-space hijacking.

    It has no parameters that the training knows of: its networks are kept where a
    segment keeps statistics, and learn in each step by their own Adam. `jsplit.privacy.fsha`
    is the same attack on a client alone, with its score.

    Args:
        activation: the shape of one activation that it gets.
        record: the shape of one public record.
        hand: what it hands on, of activations [batch, ...]: what is expected of it has
            this shape.
        inputs: names of the activation, and of the field with its public records.
        name: of the value that it hands on.
        networks: by default convolutions for pictures, else dense layers.
        width: channels of the first convolution of those.
        data_range: the smallest and the largest value of a record, in which the decoder
            of pictures ends. Give it where it is known, as of pictures it is.
        positive: whether activations are never negative, as after a relu: its encoder
            of pictures is then never negative either.
        learning_rate: of Adam on encoder and decoder.
        learning_rate_judge: of that on the discriminator.
        gradient_penalty: weight of the discriminator's.

    Returns:
        A `Hijacking`.

    Raises:
        ValueError: if there are not two inputs, `width` is no positive integer,
            `data_range` no range, `positive` neither True nor False, or a rate not
            positive and finite.

    References:
        Pasquini, Ateniese and Bernaschi, `Unleashing the tiger: inference attacks on
        split learning <https://arxiv.org/abs/2012.02670>`_, 2021.

    Example:
        >>> from jsplit.privacy import hijack
        >>> own = hijack((3,), (4,), lambda h: h[:, :2], inputs=["h", "mine"], width=2)
        >>> own.segment.inputs
        ('h', 'mine')
    """
    _check_ends(data_range, positive)
    check_hijacker(learning_rate, learning_rate_judge, gradient_penalty)
    if len(inputs) != 2 or isinstance(inputs, str):
        raise ValueError(
            "`inputs` must name the activation and the public records, got "
            f"{shown(inputs)}."
        )
    nets = networks or hijackers_for(
        tuple(activation),
        tuple(record),
        as_positive_int("width", width),
        None if data_range is None else (data_range[0], data_range[1]),
        positive,
    )
    hijacker = Hijacker(nets, (learning_rate, learning_rate_judge), gradient_penalty)

    handed = _answered(hand)

    def init(key: jax.Array, /, *given: PyTree) -> tuple[Params, State]:
        h, public = given
        return {}, {_OWN: start_hijacker(hijacker, public, h, key)}

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *given: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        h, public = given
        if not train:
            return hand(h), state
        # A key is missing only where nothing is trained.
        own, cotangent = answer(
            *(hijacker, state[_OWN], jax.lax.stop_gradient(h), public),
            jax.random.key(0) if key is None else key,
        )
        return handed(h, cotangent), {_OWN: own}

    return Hijacking(Segment(init, apply, tuple(inputs), name, trainable=False), nets)


def _check_ends(data_range: Range | None, positive: object) -> None:
    """Refuse what a decoder or an encoder cannot end in: it would learn nothing, unseen."""
    if data_range is not None:
        ends(data_range)
    if not isinstance(positive, bool):
        raise ValueError(f"`positive` must be True or False, got {shown(positive)}.")


def _answered(hand: Callable[[jax.Array], PyTree]) -> Callable[..., PyTree]:
    """`hand` of an activation, whose cotangent is given beside it."""

    @jax.custom_vjp
    def handed(h: jax.Array, cotangent: jax.Array) -> PyTree:
        return hand(h)

    # Whatever comes back for what was handed on, this goes back for the activation.
    handed.defvjp(
        lambda h, cotangent: (hand(h), cotangent),
        lambda cotangent, came: (cotangent, jax.numpy.zeros_like(cotangent)),
    )
    return handed
