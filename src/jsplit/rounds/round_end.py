"""Parameters are looked at once, at the end of a round, where a fault of any step still shows.

NaN and infinity stay in parameters once a step has left them there, and in their averages, or
the next loss has them. So a round that goes well need not look at them after every step, which
is half of what there is to look at. One that does not is run again from its start, by a program
that does, to name the step. All else that a step leaves may be replaced by the next one, and is
looked at after each.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import Finite, few_numbers, has_no_fault, is_finite
from jsplit.core.typed_jax import is_traced
from jsplit.rounds.carry import RoundArrays, RoundCarry
from jsplit.rounds.sharing import Sharing, SharingTable
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.nonfinite import all_watched, watched_params
from jsplit.training.walk import Name


def may_look_at_the_end(config: Config, *given: PyTree) -> bool:
    """Whether a round of this may look at parameters at its end, and be run again."""
    # A round within a program of the user's is run once: all it can do is tell.
    traced = any(map(is_traced, jax.tree.leaves(given)))
    return config.nonfinite == "refuse" and not traced


def went_well(info: RoundInfo) -> bool:
    """Whether all rounds of a program went well."""
    assert info.finite is not None and info.finite.step is not None
    return not jnp.any(info.finite.step)


def seen_at_the_end(
    config: Config,
    sharing: SharingTable,
    carry: RoundCarry,
    before: Mapping[str, PyTree],
    arrays: RoundArrays[jax.Array],
    info: RoundInfo,
) -> RoundInfo:
    """Add what is found in parameters to what steps have found in all else.

    Args:
        config: of the trainer.
        sharing: what each client has of its own, [clients, ...].
        carry: what the round leaves.
        before: by party, the memory of the server's optimizer before the round.
        arrays: of the round.
        info: of the round, whose steps have not looked at parameters.

    Returns:
        `info` with the flags of all values. The step is that of the first that a step
        has found, or 1 if only parameters are not finite: then no step is known.
    """
    assert info.finite is not None and info.finite.step is not None
    served = {
        p: has_no_fault(x, few_numbers(before[p])) for p, x in carry.server.items()
    }

    def is_well(name: Name) -> jax.Array:
        found = carry.store[name]
        if sharing[name] is Sharing.OWN:
            # Only of those that take part: a client that is not asked may hold anything.
            # What fills up a group is nobody, and has zeros.
            found = jax.tree.map(
                lambda x: x.at[arrays.client].get(mode="fill", fill_value=0), found
            )
        return is_finite(found) & served.get(name.party, True)

    flags: dict[str, jax.Array] = {}
    well = []
    for party, places in watched_params(config).items():
        of_steps = iter(info.finite.flags[party])
        of_all = [next(of_steps) if name is None else is_well(name) for name in places]
        flags[party] = jnp.stack(of_all) if of_all else jnp.ones(0, bool)
        well.append(flags[party].all())
    step = info.finite.step
    unknown = jnp.where(jnp.stack(well).all(), 0, 1).astype(step.dtype)
    step = jnp.where(step > 0, step, unknown)
    return info._replace(finite=Finite(flags, all_watched(config), step))
