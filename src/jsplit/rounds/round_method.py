"""The interface of a round method: what the driver calls to run a round.

`LocalTraining` and `Synchronous` are two. A third is a dataclass with the
same methods, handed to `make_algorithm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import jax
from jax.sharding import Mesh

from jsplit.core.base import PyTree
from jsplit.core.trainer import Trainer
from jsplit.rounds.carry import Kept, RoundArrays, RoundCarry
from jsplit.rounds.sharing import SharingTable
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.meshes import one_mesh
from jsplit.training.record import refuse_recording
from jsplit.training.walk import Store


class RoundProgram(Protocol):
    """What a round computes, as a function of arrays."""

    def __call__(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Mapping[str, PyTree],
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]: ...


class RoundMethod(Protocol):
    """One way to run a round, as the driver calls it."""

    @property
    def trainer(self) -> Trainer:
        """Trains one client with those it trains with."""
        ...

    @property
    def config(self) -> Config:
        """That of the trainer."""
        ...

    @property
    def sharing(self) -> SharingTable:
        """How each part of a party's state gets from one client to the next."""
        ...

    # All else lies on every device.
    @property
    def mesh(self) -> Mesh | None:
        """Over whose axis `clients` what each client has of its own lies spread."""
        ...

    @property
    def scalars(self) -> ScalarLosses:
        """What is known of losses of weight 0 once they were measured."""
        ...

    def server_init(self, store: Store) -> Mapping[str, PyTree]:
        """Return the first memory of the optimizer that applies averages, by party."""
        ...

    # Asked before a program is built: a round is filled up to whole
    # groups.
    def group_size(self, count: int) -> int:
        """Return how many of `count` clients run at once."""
        ...

    def round_program(
        self, *, ragged: bool, training: bool, at_end: bool = False
    ) -> RoundProgram:
        """Return what a round computes.

        Args:
            ragged: whether an example may count other than 1.
            training: whether the round trains, or only measures losses.
            at_end: whether parameters are looked at after the round, and so not
                by its steps.
        """
        ...


def check_trainer(trainer: Trainer) -> Config:
    """Return the config of a trainer whose step can be part of one program.

    Raises:
        ValueError: if it is no trainer, or its parties have different
            meshes.
    """
    refuse_recording(trainer)
    if not isinstance(trainer, Trainer) or not isinstance(trainer.config, Config):
        raise ValueError(
            "`trainer` must be one of jsplit.fused or jsplit.messages, got "
            f"{type(trainer).__name__}."
        )
    # A round is one program, and one program runs on one set of devices.
    one_mesh(trainer.config)
    return trainer.config
