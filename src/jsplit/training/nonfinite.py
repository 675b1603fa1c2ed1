"""What becomes of a step that leaves NaN or infinity: it is refused, skipped or allowed.

Each party looks at what it keeps after its update. To skip, all count what they found,
and if anybody found something all keep what they had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.finite import Finite, Watched, is_finite, names_by_party
from jsplit.core.typed_jax import is_traced
from jsplit.training.config import Config
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.losses import loss_name, range_name
from jsplit.training.scalar_exchange import Exchange, exchange_ops
from jsplit.training.store import Layout, layout_of
from jsplit.training.sums import total
from jsplit.training.update import proposed, updated
from jsplit.training.walk import Address, Name, Op, Store


def faults(config: Config) -> Exchange:
    """The exchange in which parties count what is not finite."""
    parties = tuple(config.topology.parties)
    return Exchange("faults", parties, parties)


class NotFinite(ValueError):
    """A step was refused: it would leave values that are not finite.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> top = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs="x", name="y"
        ... )
        >>> loss = jsplit.Loss("loss", lambda y: y.sum(-1), "lab", ["y"])
        >>> topology = jsplit.Topology([jsplit.Node("y", top, "lab"), loss], {"lab": ["x"]})
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> state = trainer.init(0, {"x": jnp.ones((2, 3))})
        >>> try:
        ...     trainer.step(state, {"x": jnp.full((2, 3), jnp.inf)})
        ... except jsplit.NotFinite as error:
        ...     print(str(error).partition(":")[0])
        step 1 leaves what is not finite or out of range
    """


class _Watched(NamedTuple):
    """A value that is looked at: what it is in words, where it lies, whether it counts faults."""

    text: str
    name: Name
    counts: bool = False


def watched(config: Config, party: str) -> list[_Watched]:
    """What a party looks at after a step, in order."""
    found = _watched_losses(config, party)
    if config.microbatches > 1:
        found = [x._replace(name=total(x.name)) for x in found]
    for name in updated(config, party):
        what = f"parameters of `{name.what}`" if name.what else "its optimizer state"
        found.append(_Watched(what, name))
    for name in _moved(config, party):
        of = "statistics" if name.kind == Kind.STATE else "the memory of the link"
        found.append(_Watched(f"{of} of `{name.what}`", name))
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
            found.append(_Watched(text, range_name(x), counts=True))
    return found


def _moved(config: Config, party: str) -> list[Name]:
    """What the forward pass replaces at a party: statistics, and memories of links."""
    at = layout_of(config)[party]
    return [*at.state.values(), *at.links.values()]


def flags_name(party: str) -> Name:
    """Where the flags of a party lie, bool [values]."""
    return Name(party, Kind.FINITE)


_HELD = {Kind.STATE: Kind.HELD_STATE, Kind.LINK: Kind.HELD_LINK}


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
    return ops


def measuring_ops(config: Config) -> list[Op]:
    """Look at the losses of an evaluation, which changes nothing."""
    ops = []
    for party in config.topology.parties:
        found = _watched_losses(config, party)
        if found and config.nonfinite != "allow":
            reads = tuple(x.name for x in found)

            def run(*values, found=found):
                return (_flags(found, values),)

            ops.append(Op(party, OpKind.CHECK, "", reads, (flags_name(party),), run))
    return ops


def _flags(found: Sequence[_Watched], values: Sequence[PyTree]) -> jax.Array:
    """Whether each value is as it should be, bool [values]."""
    flags = [
        x == 0 if one.counts else is_finite(x)
        for one, x in zip(found, values, strict=True)
    ]
    # A party may keep nothing, as one of only merging segments.
    return jnp.stack(flags) if flags else jnp.ones(0, bool)


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

    reads = tuple(place(x.name) for x in found)
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


def hold(layout: Layout, store: Store, nonfinite: str) -> None:
    """Hold statistics and memories of links as they are before a step, if it may be skipped."""
    if nonfinite != "skip":
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


def all_measured(config: Config) -> Watched:
    """By party that has losses, what is looked at in an evaluation."""
    if config.nonfinite == "allow":
        return ()
    found = {p: _watched_losses(config, p) for p in config.topology.parties}
    return names_by_party({p: [x.text for x in of] for p, of in found.items() if of})


class Verdict:
    """What becomes of a step or an evaluation, from the flags that its parties leave.

    Args:
        policy: "refuse", "skip" or "allow".
        names: by party, what they are about.
    """

    def __init__(self, policy: str, names: Watched):
        self.policy, self.names = policy, names
        self.flags = [flags_name(party) for party, _ in names]

    def finite(self, store: Mapping[Address, PyTree]) -> Finite | None:
        """The flags of a step, with the names of what they are about."""
        if self.policy == "allow":
            return None
        flags = {}
        # A plain loop: this runs in every step, and a comprehension is a call.
        for name in self.flags:
            flags[name.party] = store[name]
        return Finite(flags, self.names)

    def __call__(
        self, finite: Finite | None, step: Callable[[], int] | None = None
    ) -> None:
        """Refuse what is not finite, if that is the policy.

        Args:
            finite: the flags of a step or an evaluation.
            step: gives the number of the step, counted from 1; `None`: it is an
                evaluation.

        Raises:
            NotFinite: naming the step, the values and the parties.
        """
        if self.policy != "refuse" or finite is None:
            return
        for flags in finite.flags.values():
            # Within a program of the user's nothing can be raised: they are in `info`.
            if is_traced(flags):
                return
            if not np.asarray(flags).all():
                raise NotFinite(
                    refusal(f"step {step()}", finite) if step else unmeasured(finite)
                )


def refuse_round(policy: str, finite: Finite | None) -> None:
    """Refuse a round, or several, in which a step leaves what is not finite.

    Args:
        policy: "refuse", "skip" or "allow".
        finite: the flags of all steps, with the first that fails.

    Raises:
        NotFinite: naming the step, the values and the parties.
    """
    if policy != "refuse" or finite is None or is_traced(finite.step):
        return
    steps = np.atleast_1d(np.asarray(finite.step))
    if steps.any():
        raise NotFinite(refusal(f"step {steps[steps > 0].min()}", finite))


def refuse_evaluation(policy: str, finite: Finite | None) -> None:
    """Refuse an evaluation of many batches by their flags together, as `refuse_round`.

    Raises:
        NotFinite: naming the values and the parties.
    """
    if policy != "refuse" or finite is None:
        return
    if not any(map(is_traced, finite.flags.values())) and finite.nonfinite():
        raise NotFinite(unmeasured(finite))


def refusal(when: str, finite: Finite) -> str:
    """The words of a refusal."""
    return (
        f"{when} leaves what is not finite or out of range: "
        f"{', '.join(finite.nonfinite())}. The state in hand is that before it; "
        'nonfinite="skip" leaves such steps out, "allow" lets them pass.'
    )


def unmeasured(finite: Finite) -> str:
    """The words of a refusal to evaluate."""
    return (
        f"the evaluation gives what is not finite or out of range: "
        f"{', '.join(finite.nonfinite())}. An example of weight 0 is left out; "
        'nonfinite="allow" lets all pass.'
    )
