"""The compiled programs of a round: one for each way in which a round can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np

from jsplit.core.base import Fields
from jsplit.core.placement import replicate
from jsplit.jaxprs.compiling import jit
from jsplit.rounds.carry import Kept, RoundArrays, RoundCarry
from jsplit.rounds.forms import StateForms
from jsplit.rounds.inputs import is_ragged
from jsplit.rounds.round_end import seen_at_the_end
from jsplit.rounds.round_method import RoundMethod, RoundProgram
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config

RoundFn = Callable[..., tuple[RoundCarry, RoundInfo]]
"""`program(carry, kept, fields, arrays) -> (carry, info)`."""


@dataclass(frozen=True, eq=False)
class Programs:
    """The programs that one algorithm has compiled so far.

    Attributes:
        method: what a round computes.
        forms: the forms of a state of many clients.
    """

    method: RoundMethod
    forms: StateForms
    _compiled: dict[tuple[bool, ...], RoundFn] = field(default_factory=dict)

    def of(
        self,
        arrays: RoundArrays[np.ndarray],
        *,
        training: bool,
        several: bool = False,
        at_end: bool = False,
    ) -> RoundFn:
        """Return the program for these arrays, compiled once for each way.

        Args:
            arrays: of one round, or of several, [rounds, ...].
            training: whether the round trains, or only measures losses.
            several: whether the arrays are of several rounds.
            at_end: whether parameters are looked at after a round, and not after
                every step.

        Returns:
            `program(carry, kept, fields, arrays) -> (carry, info)`.
        """
        ragged = is_ragged(arrays)
        way = ragged, training, several, at_end
        if way not in self._compiled:
            program = self.method.round_program(
                ragged=ragged, training=training, at_end=at_end
            )
            looked_at = self.method.config if at_end else None
            run = _PlacedProgram(self.forms, program, looked_at)
            # To evaluate, the state must outlast the program; data and what it keeps do
            # so always.
            self._compiled[way] = jit(
                run.several if several else run.one,
                self.method.config.kernels,
                donate_argnums=0 if training and self.method.config.donate else (),
            )
        return self._compiled[way]


@dataclass(frozen=True, eq=False)
class _PlacedProgram:
    """A program whose results lie on the devices where the next round expects them."""

    forms: StateForms
    program: RoundProgram
    looked_at: Config | None = None
    """The trainer's, if parameters are looked at here."""

    def one(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Fields,
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run one round."""
        before, sharing = carry.server, self.forms.sharing
        carry, info = self.program(carry, kept, fields, arrays)
        if self.looked_at is not None:
            info = seen_at_the_end(self.looked_at, sharing, carry, before, arrays, info)
        # Without this the compiler would choose where the results lie.
        carry, _ = self.forms.at_rest(carry, kept)
        return carry, replicate(info, self.forms.mesh)

    def several(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Fields,
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run several rounds, whose arrays have a leading axis [rounds]."""
        return jax.lax.scan(
            lambda carry, one: self.one(carry, kept, fields, one), carry, arrays
        )
