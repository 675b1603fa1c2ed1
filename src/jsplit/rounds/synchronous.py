"""Rounds in which all clients step together: parallel split learning, large-batch SGD.

In every step each client runs on a batch of its own, and the other parties on all
of them as one. `client_axis` says how clients that step together are one
topology, `all_steps` loops over the steps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import jax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.core.trees import abstract
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.all_steps import AllSteps
from jsplit.rounds.client_axis import vmap_clients
from jsplit.rounds.client_mesh import clients_mesh, vmap_over_devices
from jsplit.rounds.driver import make_algorithm
from jsplit.rounds.forms import StateForms
from jsplit.rounds.local_training import local_training
from jsplit.rounds.own_optimizers import check_own
from jsplit.rounds.recording import TellingStep, Told, telling, told_of_each
from jsplit.rounds.round_method import RoundProgram, check_trainer
from jsplit.rounds.sharing import Sharing, SharingTable
from jsplit.training.config import Config
from jsplit.training.dynamic_scale import DynamicScale
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.fused import fused_trainer
from jsplit.training.passing import passing
from jsplit.training.recording import Recorded
from jsplit.training.store import layout_of
from jsplit.training.walk import Store


def synchronous(
    trainer: Trainer,
    sharing: SharingTable,
    clients: Collection[str],
    *,
    mesh: Mesh | None = None,
    records: tuple[str, ...] = (),
) -> Algorithm:
    """Make the algorithm in which all clients step at the same time.

    Args:
        trainer: of one client's topology.
        sharing: each part is one client's own, or carried from step to
            step. Statistics of the clients' parties may be averaged: after
            every step, each client by its examples in it.
        clients: the parties that a client is made of.
        mesh: over whose axis `clients` the clients are spread.
        records: what of each step is recorded, as `Config.records`.

    Returns:
        The algorithm.

    Raises:
        ValueError: if the trainer has micro-batches or a dynamic loss
            scale, or an argument does not fit.
    """
    again = partial(synchronous, trainer, sharing, clients, mesh=mesh)
    config = check_trainer(trainer)._replace(records=records)
    # The step here is that of all clients: one of the user's own would be lost.
    telling(trainer, records)
    mesh = clients_mesh(mesh, config)
    if config.microbatches > 1:
        raise ValueError(
            "`trainer` has micro-batches, which clients that step together do not: "
            "give each a smaller batch."
        )
    if _has_own(sharing, clients):
        check_own(config, clients)
    if isinstance(config.loss_scale, DynamicScale):
        # Each client's links have a memory of its own, and all clients are one step.
        raise ValueError(
            "`trainer` has a dynamic `loss_scale`, which clients that step together do "
            "not: give it a number."
        )
    # One step has one objective, whoever has parameters of its own.
    sharing = SharingTable(
        {p: x._replace(strengths=Sharing.CARRIED) for p, x in sharing.parties.items()}
    )
    forms = StateForms(layout_of(config), sharing, mesh)
    method = Synchronous(trainer, config, forms, sharing, tuple(clients), mesh)
    trained = make_algorithm(method)

    # Clients are measured one by one, so that losses are known by client.
    if mesh is None:
        measured = local_training(trainer, sharing)
    else:
        # Nothing is carried from one to the next where nobody trains, so
        # they may be measured at the same time, which a mesh asks for.
        measured = local_training(
            trainer,
            sharing.replace(Sharing.CARRIED, Sharing.AVERAGED),
            chunk=1,
            mesh=mesh,
        )
    recording = None if records else lambda x: again(records=x)
    return trained._replace(evaluate=measured.evaluate, recording=recording)


@dataclass(frozen=True, eq=False)
class Synchronous:
    """The round method in which all clients step together."""

    trainer: Trainer
    config: Config
    forms: StateForms
    sharing: SharingTable
    clients: tuple[str, ...]
    mesh: Mesh | None
    # Nothing is measured here; see `synchronous`.
    scalars: ScalarLosses = field(default_factory=ScalarLosses)

    def server_init(self, store: Store) -> dict[str, PyTree]:
        """Return nothing: no optimizer applies averages here."""
        return {}

    def group_size(self, count: int) -> int:
        """Return 1: there are no groups to fill up, since all run at once."""
        return 1

    def round_program(
        self, *, ragged: bool, training: bool, at_end: bool = False
    ) -> RoundProgram:
        """Return the loop over the steps of a round."""
        # Every step has weights, ragged or not: a client that takes no
        # step has weight 0 in the large batch.
        return AllSteps(
            self.config,
            self.forms,
            self._train_step,
            at_end,
        )

    def _train_step(self, count: int, batch: PyTree) -> TellingStep:
        """Return the step of a trainer of `count` clients at once, on a batch of them all."""
        own = _has_own(self.sharing, self.clients)
        vmap = vmap_over_devices(self.mesh)
        many = vmap_clients(self.config, self.clients, count, own=own, vmap=vmap)
        # What does not cross is known of one client's segments; those of all are of them.
        of_one = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (x.shape[0] // count, *x.shape[1:]), x.dtype
            ),
            abstract(dict(batch)),
        )
        known = passing(self.config, of_one).passing
        train = fused_trainer(many._replace(passing=known))
        if not self.config.records:
            return telling(train, ())

        def step(
            state: TrainState, batch: Fields, weight: ArrayLike | None
        ) -> tuple[TrainState, Info, Told]:
            state, found = train.step(state, batch, weight)
            # A trainer whose config asks for records tells these.
            recorded = cast(Recorded, found)
            told = told_of_each(self.config, self.clients, own, count, recorded)
            return state, recorded.info, told

        return step


def _has_own(sharing: SharingTable, clients: Collection[str]) -> bool:
    """Return whether each client has parameters of its own."""
    return any(sharing.parties[p].params is Sharing.OWN for p in clients)
