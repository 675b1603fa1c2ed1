"""What a party gets from its part: `Metrics` of every step, a `Result` in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from jsplit.core.base import PartyState, PyTree
from jsplit.guarding import Evidence


@dataclass(frozen=True)
class Metrics:
    """What one step of one party took.

    Attributes:
        step: its number, from 1 on.
        losses: that this party computes, by name, each before its weight.
        sent: bytes of the frames that carried values to others.
        received: bytes of the frames that carried values from others.
        seconds: that the whole step took.
        compute: seconds of the party's own work.
        wire: seconds of handing over what it sends.
        wait: seconds of waiting for others.
        epoch: how often the run was begun or rolled back.

    Example:
        >>> from jsplit.party import Metrics
        >>> print(Metrics(7, {"loss": 0.25}, 96, 0, 0.004, 0.001, 0.001, 0.002, 1))
        step 7, loss 0.2500, 96 B sent, 0 B received, \
4.0 ms: compute 1.0, wire 1.0, wait 2.0
    """

    step: int
    losses: Mapping[str, float]
    sent: int
    received: int
    seconds: float
    compute: float
    wire: float
    wait: float
    epoch: int

    def plain(self) -> dict[str, object]:
        """Give all of it for JSON, which has no NaN and no infinity.

        Returns:
            The attributes by name, with `None` for a loss that is not finite.

        Example:
            >>> from jsplit.party import Metrics
            >>> nan = float("nan")
            >>> Metrics(1, {"loss": nan}, 0, 0, 0.1, 0.1, 0.0, 0.0, 1).plain()["losses"]
            {'loss': None}
        """
        # `None` and not the words "NaN" or "inf": a plot leaves a gap there by itself.
        losses = {n: x if isfinite(x) else None for n, x in self.losses.items()}
        return {**self.__dict__, "losses": losses}

    def __str__(self) -> str:
        times = ", ".join(
            f"{name} {1e3 * seconds:.1f}"
            for name, seconds in (
                ("compute", self.compute),
                ("wire", self.wire),
                ("wait", self.wait),
            )
        )
        parts = [
            f"step {self.step}",
            ", ".join(f"{name} {x:.4f}" for name, x in self.losses.items()),
            f"{self.sent} B sent",
            f"{self.received} B received",
            f"{1e3 * self.seconds:.1f} ms: {times}",
        ]
        # Most parties compute no loss, and an empty part would leave two commas.
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Result:
    """What a party has when its part is done.

    Its text has the step, the losses and the metrics, and neither the state nor outputs.

    Attributes:
        state: parameters, statistics, optimizer state: of this party alone.
        step: at which it stands.
        losses: by name. Of training, one number for every step that this process
            computed last; of an evaluation, the mean over all records.
        metrics: of an evaluation, by name, each a number of all records.
        outputs: of a prediction, by node, [record, ...], in the order that
            `jsplit.party.predict` says.
        stopped: whether it was asked to stop before the end.
        epoch: how often the run was begun or rolled back.
        away: which clients were passed over, and from which steps on.
        evidence: of a training, what the guard has found, by window of steps that this
            process has done; of steps done again, the last time.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> state = jsplit.PartyState({}, {}, (), {}, jax.random.key(0), jnp.int32(9))
        >>> result = jsplit.party.Result(state, 9, {"loss": [0.5, 0.25]})
        >>> result.step, result.losses["loss"][-1], result.stopped
        (9, 0.25, False)
    """

    # Not in the text: what is printed of a result goes into logs, and a page of weights would
    # hide the loss; outputs are of records.
    state: PartyState = field(repr=False)
    step: int
    # `Any`: a list of numbers or one number, by the task, which whoever asked for it knows.
    losses: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | int | bool] = field(default_factory=dict)
    outputs: Mapping[str, PyTree] = field(default_factory=dict, repr=False)
    stopped: bool = False
    epoch: int = 0
    # Empty unless the agreement says `missing="skip"`. With it and the agreement the
    # run can be computed again, bit for bit.
    away: Sequence[tuple[int, Sequence[str]]] = ()
    evidence: Sequence[Evidence] = ()
