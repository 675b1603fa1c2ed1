"""An attack as an entry of a report: the threat it is of, what it needs, and a function.

The function is given a view, traffic and a `Given`, and no trainer, state or field of others.
So to report one more attack is to write one more `Attempt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import names_of, one_of
from jsplit.privacy.scores import Score
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.view import View

NEEDS = {
    "public": "no public records with all fields that the value depends on (`public`)",
    "known": (
        "of these records the adversary knows no label, or all of them (`known`)"
    ),
    "head": (
        "the value goes to several segments, or is not alone at one, or its output is not "
        "what a loss reads with the label: an adversary cannot know the form of a head"
    ),
    "bottom": (
        "the value is not made of this one field by one segment: an adversary cannot know "
        "its form"
    ),
    "data_range": "the range of the field was not given (`ranges`)",
    "table": "no public embedding of the field was given (`tables`)",
}
"""By what an attack needs beside its view: why it was not tried where that is not there."""

TARGETED = ("labels", "inversion")
READS = ("cotangents", "activations", "received")


class Given(NamedTuple):
    """What an attack is told beside its view and traffic.

    Attributes:
        target: the field that it aims at.
        truth: that field of the records of the traffic, [records, ...]: what its score
            is held against, and of records in `known` what the adversary knows.
        value: the name of what it reads, in the traffic.
        key: a PRNG key of its own.
        classes: how many, of a label; else `None`.
        ids: which record each row is, int [records].
        known: whose label the adversary knows, bool [records], or `None`.
        public: the target of public records, [public, ...], or `None`.
        asked: the value of those, as the receiver would decode it, or `None`.
        head: the form of the segment that reads the value, its parameters drawn anew.
        loss: `loss(output, label)` that reads the head's output.
        bottom: the form of the segment that makes the value, its parameters drawn anew.
        data_range: the smallest and largest value of the target, if they were given.
        steps: of optimisation, or `None`: as many as the attack takes by itself.
        table: a public embedding of the target, [vocabulary, width], or `None`.

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import Given
        >>> Given("label", np.arange(4) % 2, "smashed", jax.random.key(0)).known is None
        True
    """

    target: str
    truth: np.ndarray
    value: str
    key: jax.Array
    classes: int | None = None
    ids: np.ndarray | None = None
    known: np.ndarray | None = None
    public: np.ndarray | None = None
    asked: PyTree = None
    head: Segment | None = None
    loss: Callable[..., jax.Array] | None = None
    bottom: Segment | None = None
    data_range: tuple[float, float] | None = None
    steps: int | None = None
    table: np.ndarray | None = None

    @property
    def effort(self) -> dict[str, int]:
        """The argument `steps` of an attack, where it is given.

        Returns:
            It, or nothing.

        Example:
            >>> import jax, numpy as np
            >>> from jsplit.privacy import Given
            >>> Given("x", np.zeros(4), "h", jax.random.key(0), steps=9).effort
            {'steps': 9}
        """
        return {} if self.steps is None else {"steps": self.steps}


class Inverted(Protocol):
    """A score with what each record was taken for."""

    @property
    def score(self) -> Score: ...

    @property
    def reconstructed(self) -> np.ndarray: ...


Result: TypeAlias = Score | tuple[Score, np.ndarray] | Inverted


@dataclass(frozen=True)
class Attempt:
    """An attack that a report runs wherever its threat exists.

    Attributes:
        name: of the attack.
        threat: what it is of, as `View.can` names it: "labels" (it aims at labels that
            the party does not hold), "inversion" (at fields of others).
        run: `run(view, traffic, given)` gives a `Score`, or a pair of it and what
            each record was taken for, [records, ...], or a record with both as `score`
            and `reconstructed`. A `ValueError` says why it cannot be tried here.
        reads: "cotangents" that came to the party in steps; or, after training,
            "activations" that it sent or got, or those that it "received".
        needs: what must have been given: "public", "known", "head", "bottom",
            "data_range", "table".
        binary: whether it is of two classes alone.
        steps: of optimisation that it takes by itself; 0: it has none, or nobody has said.
            A report that gives it fewer says that it may not have converged.
        tokens: whether it aims at tokens alone, integers [records, positions].

    Raises:
        ValueError: if threat, `reads` or `needs` are unknown.

    Example:
        >>> from jsplit.privacy import Attempt, norm_attack
        >>> norm = Attempt(
        ...     "norm", "labels",
        ...     lambda view, traffic, given: norm_attack(traffic, given.truth),
        ...     reads="cotangents", binary=True,
        ... )
        >>> norm.needs
        ()
    """

    name: str
    threat: str
    run: Callable[[View, Traffic, Given], Result]
    reads: str = "received"
    needs: tuple[str, ...] = ()
    binary: bool = False
    steps: int = 0
    tokens: bool = False

    def __post_init__(self) -> None:
        # Of the others nothing that a recorded training holds can be scored.
        one_of("threat", self.threat, TARGETED)
        one_of("reads", self.reads, READS)
        needs = names_of("needs", self.needs)
        for name in needs:
            one_of("needs", name, [*NEEDS])
        object.__setattr__(self, "needs", tuple(needs))
