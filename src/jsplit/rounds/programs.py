"""The compiled programs of a round: one for each way in which a round can be run.

How loops run is found out when the first round is given, and stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np

from jsplit.core.base import Fields
from jsplit.core.placement import replicate
from jsplit.populations.round import Round
from jsplit.rounds.carry import RoundArrays, RoundCarry
from jsplit.rounds.forms import StateForms
from jsplit.rounds.inputs import batch_shapes, is_ragged
from jsplit.rounds.loops import Backend, choose_backend
from jsplit.rounds.round_method import RoundMethod, RoundProgram
from jsplit.rounds.state import Federation, RoundInfo


@dataclass(frozen=True, eq=False)
class Programs:
    """The programs that one algorithm has compiled so far.

    Attributes:
        method: what a round computes.
        forms: the forms of a state of many clients.
        needed: the fields that are read.
        loop: how loops run, as the user says.
    """

    method: RoundMethod
    forms: StateForms
    needed: frozenset[str]
    loop: str
    # At most one; filled by the first round, whose shapes a step is traced for.
    _backends: list[Backend] = field(default_factory=list)
    _compiled: dict[tuple[bool, bool, bool], Callable] = field(default_factory=dict)

    def backend(self, state: Federation, round: Round) -> Backend:
        """Return how loops run, given a state and a round to train it on."""
        if not self._backends:
            train = self.method.trainer.step
            one = self.forms.shapes_of_one(state)
            batch = batch_shapes(round, self.needed)
            # The info holds records of messages, which cannot be traced.
            self._backends.append(
                choose_backend(self.loop, lambda *a: train(*a)[0], one, batch)
            )
        return self._backends[0]

    def of(
        self, arrays: RoundArrays[np.ndarray], *, training: bool, several: bool = False
    ) -> Callable[..., tuple[RoundCarry, RoundInfo]]:
        """Return the program for these arrays, compiled once for each way.

        Args:
            arrays: of one round, or of several, [rounds, ...].
            training: whether the round trains, or only measures losses.
            several: whether the arrays are of several rounds.

        Returns:
            `program(carry, key, fields, arrays) -> (carry, info)`.
        """
        backend, ragged = self._backends[0], is_ragged(arrays)
        way = ragged, training, several
        if way not in self._compiled:
            program = self.method.round_program(
                backend, ragged=ragged, training=training
            )
            run = _PlacedProgram(self.forms, program)
            # To evaluate, the state must outlast the program; data and key do
            # so always.
            self._compiled[way] = backend.jit_round(
                run.several if several else run.one,
                donate_argnums=0 if training else (),
            )
        return self._compiled[way]


@dataclass(frozen=True, eq=False)
class _PlacedProgram:
    """A program whose results lie on the devices where the next round expects them."""

    forms: StateForms
    program: RoundProgram

    def one(
        self,
        carry: RoundCarry,
        key: jax.Array,
        fields: Fields,
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run one round."""
        carry, info = self.program(carry, key, fields, arrays)
        # Without this the compiler would choose where the results lie.
        carry, _ = self.forms.at_rest(carry, key)
        return carry, replicate(info, self.forms.mesh)

    def several(
        self,
        carry: RoundCarry,
        key: jax.Array,
        fields: Fields,
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run several rounds, whose arrays have a leading axis [rounds]."""
        return jax.lax.scan(
            lambda carry, one: self.one(carry, key, fields, one), carry, arrays
        )
