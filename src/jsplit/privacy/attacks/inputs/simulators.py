"""Networks of a server that simulates a bottom: decoder and discriminators, by shapes.

Where the server has the labels, each reads an activation or a record with its class behind.
"""

from __future__ import annotations

from functools import cache
from math import prod

import jax
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import shown
from jsplit.privacy.attacks.inputs.hijackers import critic
from jsplit.privacy.attacks.inputs.networks import (
    Shape,
    are_pictures,
    checked,
    decoder_for,
    dense,
)
from jsplit.privacy.attacks.inputs.simulating import Came, Simulator, with_label
from jsplit.privacy.attacks.inputs.telling import classes
from jsplit.privacy.attacks.rates import check_rates, check_weights, several


def checked_options(
    rates: tuple[float, float, float, float], weights: tuple[float, float], flip: float
) -> tuple[tuple, tuple, float]:
    """The same, looked at.

    Raises:
        ValueError: naming the argument of `sdar`.
    """
    check_rates(**several("learning_rates", rates, 4))
    check_weights(**several("adversarial", weights, 2), flip=flip)
    if flip > 1:
        raise ValueError(f"`flip` must be a share, from 0 to 1, got {shown(flip)}.")
    return tuple(rates), tuple(weights), flip


def simulator_for(
    segments: tuple[Segment, Segment, Segment | None, Segment | None],
    options: tuple[tuple, tuple, float],
    came: Came,
    public: jax.Array,
    known: np.ndarray,
    width: int,
) -> Simulator:
    """All networks, for these shapes."""
    bottom, top, head, decoder = segments
    number = int(known.max()) + 1
    of_h, of_x = came.h.shape[1:], public.shape[1:]
    told = of_h if head is not None else _told(of_h, number)
    made = decoder or decoder_for(told, of_x)
    how = Simulator(
        *(bottom, top, head, made, _judges(of_h, of_x, width), number, *options)
    )
    few = with_label(how, came.h[:2], came.label[:2])
    checked("decoder", made, few, of_x)
    params, state = bottom.init(jax.random.key(0), public[:2])
    h, _ = bottom.apply(params, state, None, public[:2], train=False)
    if getattr(h, "shape", (0, 0))[1:] != of_h:
        raise ValueError(
            f"`bottom` must make activations of shape {of_h}, as those that came, of a "
            f"record {of_x}."
        )
    return how


@cache
def _told(activation: Shape, number: int) -> Shape:
    """The shape of an activation with its class behind."""
    if len(activation) == 3:
        return (*activation[:2], activation[2] + number)
    return (prod(activation) + number,)


@cache
def _judges(activation: Shape, record: Shape, width: int) -> tuple[Segment, Segment]:
    """The discriminators of activations and of records."""

    def made(shape: Shape) -> Segment:
        if len(shape) == 3:
            return critic([(width, 2), (2 * width, 2)])
        return dense((4 * width, 4 * width), (1,))

    picture = are_pictures((*record[:2], 1), record)
    return made(activation), made((*record[:2], 1) if picture else record)


def known_classes(known: PyTree, public: int) -> np.ndarray:
    """Classes of public records, int [public]."""
    told = classes("known", known)
    if len(told) != public:
        raise ValueError(
            f"`known` must hold a class for each of {public} records of `public`, got "
            f"{len(told)}."
        )
    return told
