"""Optimizers that an algorithm cannot have: a number of all parties is none of one client.

Where many clients step at once, each with an optimizer of its own, there is one loss and one
step of the others for all of them; where averages are applied, there is neither.
"""

from __future__ import annotations

from collections.abc import Collection

import jax
import optax

from jsplit.training.config import Config
from jsplit.training.optimizer_parts import clips_of, needs_loss


def check_own(config: Config, clients: Collection[str]) -> None:
    """Refuse optimizers that need more than one client has in a step of all.

    Args:
        config: of one client's training.
        clients: the parties that are there once for each client, with optimizers of
            their own.

    Raises:
        ValueError: naming the party.
    """
    if config.norms:
        raise ValueError(
            "`trainer` has optimizers with clip_by_global_norm: where each client has "
            "parameters of its own, a step of all has no norm that is one client's and "
            'the others\'; take bottoms="shared", or an algorithm in which each client '
            "takes its own steps, as splitfed."
        )
    for party in clients:
        optimizer = config.optimizer.get(party)
        if optimizer is not None and needs_loss(optimizer):
            raise ValueError(
                f"`trainer`: the optimizer of `{party}` needs the loss (`value`), and in "
                "a step of all clients there is one loss for all of them; take "
                'bottoms="shared", or an algorithm in which each client takes its own '
                "steps, as splitfed."
            )


def check_server(server: optax.GradientTransformation | None) -> None:
    """Refuse what cannot apply averages, which are no gradients of a step.

    Raises:
        ValueError: naming what does not fit.
    """
    if server is None:
        return
    if not isinstance(server, optax.GradientTransformation):
        raise ValueError(
            f"`server` must be an optax optimizer, got {type(server).__name__}."
        )
    if clips_of(server):
        raise ValueError(
            "`server` has jsplit.clip_by_global_norm, which is for the optimizers of a "
            "step; optax.clip_by_global_norm clips what a round moved, party by party."
        )
    if needs_loss(server):
        raise ValueError(
            "`server` needs the loss (`value`) of a step, and averages have none."
        )


def optimizer_of_each(
    one: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Return an optimizer of several sets of parameters, which lie along the first axis.

    Each set has a state of its own, so an optimizer that looks at all
    parameters together, such as one that clips by their norm, sees those
    of one client.
    """

    def init(params):
        # `vmap` needs an array to know how many there are.
        return (jax.vmap(one.init) if jax.tree.leaves(params) else one.init)(params)

    def update(updates, state, params=None):
        run = jax.vmap(one.update) if jax.tree.leaves(updates) else one.update
        return run(updates, state, params)

    return optax.GradientTransformation(init, update)
