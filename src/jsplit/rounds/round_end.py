"""What a round leaves is looked at once, at its end: it is not finite, or all steps went well.

NaN and infinity stay where they are once a step has left them: in parameters, in their
averages, and in losses. So a round that goes well need not look at what every step
keeps. One that does not is run again from its start, by a program that does, to name
the step and the value.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import Finite, has_no_fault, is_finite, stays_finite
from jsplit.core.typed_jax import is_traced
from jsplit.rounds.sharing import Sharing, SharingTable
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.nonfinite import all_watched
from jsplit.training.walk import Name, Store


def at_losses_alone(config: Config) -> Config:
    """The same training, whose steps look at losses, and not at what they keep."""
    return config._replace(watches_state=False)


def may_look_at_the_end(config: Config, *given: PyTree) -> bool:
    """Whether a round of this may look at its end alone, and be run again."""
    # A round within a program of the user's is run once: all it can do is tell.
    traced = any(map(is_traced, jax.tree.leaves(given)))
    return config.nonfinite == "refuse" and not traced


def went_well(info: RoundInfo) -> bool:
    """Whether all rounds of a program that looked at their end went well."""
    assert info.finite is not None and info.finite.step is not None
    return not jnp.any(info.finite.step)


def seen_at_the_end(
    config: Config, sharing: SharingTable, before: Store, after: Store, info: RoundInfo
) -> RoundInfo:
    """Say in `info` whether all is finite: all flags are true, or none.

    Args:
        config: of the trainer.
        sharing: what each client has of its own, [clients, ...].
        before: the state of all clients before the round.
        after: the same after it.
        info: of the round, whose steps looked at losses.
    """
    assert info.finite is not None
    well = [info.finite.all()]
    for name, x in after.items():
        assert isinstance(name, Name)
        # A segment may keep nothing, and nothing has no clients to be looked at.
        if not jax.tree.leaves(x):
            continue
        look = partial(_is_well, name.kind)
        if sharing[name] is Sharing.OWN:
            # A number of each client's is an array of them all: what may be infinite
            # is told by the shape that one client has.
            well.append(jax.vmap(look)(x, before[name]).all())
        else:
            well.append(look(x, before[name]))
    fine = jnp.stack(well).all()
    names = all_watched(config)
    flags = {p: jnp.broadcast_to(fine, len(of)) for p, of in names}
    step = jnp.where(fine, 0, 1).astype(jnp.int32)
    return info._replace(finite=Finite(flags, names, step))


def _is_well(kind: Kind, new: PyTree, old: PyTree) -> jax.Array:
    """Whether what is kept is as a step may leave it."""
    if kind == Kind.OPTIMIZER:
        return has_no_fault(new)
    if kind == Kind.PARAMS:
        return is_finite(new)
    return stays_finite(new, old)
