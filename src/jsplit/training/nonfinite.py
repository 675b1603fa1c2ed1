"""What becomes of a step that leaves NaN or infinity: it is refused, skipped or allowed.

Each party looks at what it keeps after its update. To skip, all count what they found,
and if anybody found something all keep what they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import (
    Watched,
    has_no_fault,
    is_finite,
    names_by_party,
    stays_finite,
)
from jsplit.training.config import Config
from jsplit.training.executor import StoreLike
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.loss_scale import is_scale, scale_ops, scaled_gradients
from jsplit.training.losses import loss_name, range_name
from jsplit.training.scalar_exchange import Exchange, exchange_ops
from jsplit.training.step_numbers import StepNumbers, left_out, numbers_name
from jsplit.training.store import Layout, layout_of
from jsplit.training.sums import total
from jsplit.training.update import few_before, gradient_names, proposed, tells, updated
from jsplit.training.walk import Name, Op, Store

FAULTS = "faults"
"""What the messages of counts are called."""


def faults(config: Config) -> Exchange:
    """The exchange in which parties count what is not finite."""
    parties = tuple(config.topology.parties)
    return Exchange(FAULTS, parties, parties)


class _Watched(NamedTuple):
    """A value that is looked at.

    Attributes:
        text: what it is, in words.
        name: where it lies.
        was: where it lies as it was before the step, if that counts.
    """

    text: str
    name: Name
    was: tuple[Name, ...] = ()


def watched(config: Config, party: str) -> list[_Watched]:
    """What a party looks at after a step, in order."""
    found = _watched_losses(config, party)
    if config.microbatches > 1:
        found = [x._replace(name=total(x.name)) for x in found]
    for name in updated(config, party):
        what = f"parameters of `{name.what}`" if name.what else "its optimizer state"
        was = () if name.what else (few_before(party),)
        found.append(_Watched(what, name, was))
    scaled = scaled_gradients(config, gradient_names(config, party))
    found += [_Watched(text, name) for text, name in scaled]
    for name in _moved(config, party):
        of = "statistics" if name.kind == Kind.STATE else "the memory of the link"
        found.append(_Watched(f"{of} of `{name.what}`", name, (held(name),)))
    return found


def _watched_losses(config: Config, party: str) -> list[_Watched]:
    """What is looked at of the losses of a party."""
    found: list[_Watched] = []
    for x in config.topology.losses:
        if x.party == party:
            # One of weight 0 only measures: it shows what it is, and nothing is learned
            # from it. A wrong class number in it would not show.
            if x.weight:
                found.append(_Watched(f"the loss `{x.name}`", loss_name(x)))
            text = f"the range of class numbers in the loss `{x.name}`"
            found.append(_Watched(text, range_name(x)))
    return found


def _moved(config: Config, party: str) -> list[Name]:
    """What the forward pass replaces at a party: statistics, and memories of links."""
    at = layout_of(config)[party]
    # A scale is no memory: it moves just where a step is left out.
    return [x for x in (*at.state.values(), *at.links.values()) if not is_scale(x)]


def flags_name(party: str) -> Name:
    """Where the flags of a party lie, bool [values]."""
    return Name(party, Kind.FINITE)


_HELD = {Kind.STATE: Kind.HELD_STATE, Kind.LINK: Kind.HELD_LINK}


# Asked of every name in every step: the cache runs no Python.
@cache
def held(name: Name) -> Name:
    """Where statistics, or the memory of a link, lie as they were before the step."""
    return name._replace(kind=_HELD[name.kind])


def check_ops(config: Config) -> list[Op]:
    """Look at what each party keeps; to skip, agree on it and keep one or the other."""
    if config.nonfinite == "allow":
        return []
    parties = config.topology.parties
    ops = [_check_op(config, p) for p in parties]
    if config.nonfinite == "skip":
        ops += exchange_ops(config.topology, faults(config))
        ops += [_settle_op(config, p) for p in parties]
        ops += scale_ops(config, faults(config))
        ops += [_numbers_op(config, p) for p in parties if tells(config, p)]
    return ops


def measuring_ops(config: Config) -> list[Op]:
    """Look at the losses of an evaluation, which changes nothing."""
    ops = []
    for party in config.topology.parties:
        found = _watched_losses(config, party)
        if found and config.nonfinite != "allow":
            reads = _reads(found)

            def run(*values, found=found):
                return (_flags(found, values),)

            ops.append(Op(party, OpKind.CHECK, "", reads, (flags_name(party),), run))
    return ops


def _flags(found: Sequence[_Watched], values: Sequence[PyTree]) -> jax.Array:
    """Whether each value is as it should be, bool [values]."""
    left = iter(values)
    flags = [
        _fine(one.name, next(left), *[next(left) for _ in one.was]) for one in found
    ]
    # A party may keep nothing, as one of only merging segments.
    return jnp.stack(flags) if flags else jnp.ones(0, bool)


def _fine(name: Name, value: PyTree, *was: PyTree) -> jax.Array:
    if name.kind == Kind.RANGE:
        return value == 0
    if name.kind == Kind.OPTIMIZER:
        return has_no_fault(value, *was)
    return stays_finite(value, *was) if was else is_finite(value)


def _reads(found: Sequence[_Watched]) -> tuple[Name, ...]:
    return tuple(name for x in found for name in (x.name, *x.was))


def _check_op(config: Config, party: str) -> Op:
    found = watched(config, party)
    skips = config.nonfinite == "skip"

    def run(*values):
        of_all = _flags(found, values)
        # Counted in floating point, as all that is summed over parties.
        bad = (~of_all).sum(dtype=jnp.result_type(float)).reshape(1)
        return (of_all, bad) if skips else (of_all,)

    def place(name: Name) -> Name:
        replaced = skips and name.kind in (Kind.PARAMS, Kind.OPTIMIZER)
        return proposed(name) if replaced else name

    reads = tuple(map(place, _reads(found)))
    writes = (flags_name(party), *([faults(config).part(party)] if skips else []))
    return Op(party, OpKind.CHECK, "", reads, writes, run)


def _settle_op(config: Config, party: str) -> Op:
    """Keep what the step gave, or what was there before."""
    replaced, moved = updated(config, party), _moved(config, party)

    def run(bad, *values):
        keep = bad[0] == 0
        old, new = values[: len(values) // 2], values[len(values) // 2 :]
        return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)

    old = (*replaced, *map(held, moved))
    new = (*map(proposed, replaced), *moved)
    reads = (faults(config).sum(party), *old, *new)
    return Op(party, OpKind.SETTLE, "", reads, (*replaced, *moved), run)


def _numbers_op(config: Config, party: str) -> Op:
    """Tell of a step that was left out that it has moved nothing."""

    def run(bad, watched):
        return (left_out(watched, bad[0] == 0),)

    at = numbers_name(party)
    reads = (faults(config).sum(party), at)
    return Op(party, OpKind.SETTLE, "", reads, (at,), run)


def numbers_at(config: Config, party: str, store: StoreLike) -> StepNumbers | None:
    """What a party's step has told, in the store that it leaves; `None` if nothing."""
    return store[numbers_name(party)] if tells(config, party) else None


def hold(layout: Layout, store: Store, nonfinite: str) -> None:
    """Hold what may be infinite from the start as it is before a step that is looked at."""
    if nonfinite == "allow":
        return
    for at in layout.values():
        for name in (*at.state.values(), *at.links.values()):
            # The same arrays under another name: nothing is copied.
            store[held(name)] = store[name]


def all_watched(config: Config) -> Watched:
    """By party, what is looked at after a step; nothing if anything is allowed."""
    if config.nonfinite == "allow":
        return ()
    parties = config.topology.parties
    return names_by_party({p: [x.text for x in watched(config, p)] for p in parties})


def watched_params(config: Config) -> dict[str, list[Name | None]]:
    """By party, of each value that is looked at the parameters that it is, or `None`."""
    return {
        party: [
            x.name if x.name.kind == Kind.PARAMS else None
            for x in watched(config, party)
        ]
        for party in config.topology.parties
    }


def all_measured(config: Config) -> Watched:
    """By party that has losses, what is looked at in an evaluation."""
    if config.nonfinite == "allow":
        return ()
    found = {p: _watched_losses(config, p) for p in config.topology.parties}
    return names_by_party({p: [x.text for x in of] for p, of in found.items() if of})
