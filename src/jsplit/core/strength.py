"""A number of a topology or a link that may change without a new compilation.

It stands where a constant may stand, as in the weight of a loss; the number itself is
an array in the state of the party that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from numbers import Real

import numpy as np

from jsplit.core.checks import shown


@dataclass(frozen=True)
class Strength:
    """A number that `jsplit.set_hyperparams` sets, and that compiles nothing anew.

    It may stand for the weight of a loss or penalty and for a strength of a
    link. `PartyState.strengths` holds it, by name, at every party that reads
    it, in training and in inference; training never changes it.

    A loss whose weight is a `Strength` stays one that is trained for
    whatever its number is, also at 0: its gradients are then computed, and
    are 0. One of weight 0, the constant, is computed but not trained for.

    Attributes:
        name: By which it is set. Two losses of one party with the same name
            have one number.
        value: What it is at first, finite and at least 0.
        most: The largest that it may be set to. What reads it may lower that, as
            `jsplit.privacy.gaussian`; more is refused before it is used.

    Raises:
        ValueError: If `name` is no name, or `value` no number that is finite,
            at least 0 and at most `most`.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> size = lambda h: jnp.mean(h**2, -1)
        >>> nopeek = jsplit.Strength("nopeek", 5.0)
        >>> penalty = jsplit.Penalty("small", size, "client", "smashed", nopeek)
        >>> penalty.weight
        Strength(name='nopeek', value=5.0)
        >>> jsplit.Strength("nopeek", -1.0)
        Traceback (most recent call last):
        ValueError: strength `nopeek`: `value` must be finite and at least 0, got -1.0.
    """

    name: str
    value: float
    # Not compared: one strength may be read by what bears more and what bears less.
    most: float = field(default=inf, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ValueError(
                f"a strength: `name` must be a name, got {shown(self.name)}."
            )
        if not _is_strength(self.value):
            raise ValueError(
                f"strength `{self.name}`: `value` must be finite and at least 0, got "
                f"{shown(self.value)}."
            )
        if not self.value <= self.most:
            raise ValueError(
                f"strength `{self.name}`: `value` must be at most {self.most:g}, got "
                f"{shown(self.value)}."
            )
        # One form of a number, so that strengths which mean the same are equal.
        object.__setattr__(self, "value", float(self.value))


def at_most(strength: Strength, most: float) -> Strength:
    """Return the strength, bounded by what its reader bears."""
    return replace(strength, most=min(most, strength.most))


# Of anything: users' code is not checked.
def _is_name(name: object) -> bool:
    """Whether something is a name."""
    return isinstance(name, str) and bool(name)


def _is_strength(value: object) -> bool:
    """Whether something is a number that a strength may be."""
    # Python counts `True` as 1, and nobody means it by a strength.
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    # As float32, in which states hold it.
    number = float(value)
    return 0 <= number <= float(np.finfo(np.float32).max)
