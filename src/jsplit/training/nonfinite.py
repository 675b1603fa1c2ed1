"""What becomes of a step that leaves NaN or infinity: it is refused, skipped or allowed.

Each party looks at what it keeps after its update. To skip, all count what they found,
and if anybody found something all keep what they had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.finite import Finite, Watched, is_finite, names_by_party
from jsplit.core.typed_jax import is_traced
from jsplit.training.config import Config
from jsplit.training.executor import StoreLike
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.loss_scale import is_scale, scale_ops, scaled_gradients
from jsplit.training.losses import loss_name, range_name
from jsplit.training.scalar_exchange import Exchange, exchange_ops
from jsplit.training.store import Layout, layout_of
from jsplit.training.sums import total
from jsplit.training.update import gradient_names, proposed, updated
from jsplit.training.walk import Name, Op, Store


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
    found = []
    several = config.microbatches > 1
    for x in config.topology.losses:
        if x.party == party:
            at, range_at = loss_name(x), range_name(x)
            if several:
                at, range_at = total(at), total(range_at)
            found.append(_Watched(f"the loss `{x.name}`", at))
            text = f"the range of class numbers in the loss `{x.name}`"
            found.append(_Watched(text, range_at, counts=True))
    for name in updated(config, party):
        what = f"parameters of `{name.what}`" if name.what else "its optimizer state"
        found.append(_Watched(what, name))
    scaled = scaled_gradients(config, gradient_names(config, party))
    found += [_Watched(text, name) for text, name in scaled]
    for name in _moved(config, party):
        of = "statistics" if name.kind == Kind.STATE else "the memory of the link"
        found.append(_Watched(f"{of} of `{name.what}`", name))
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
    return ops


def _check_op(config: Config, party: str) -> Op:
    found = watched(config, party)
    skips = config.nonfinite == "skip"

    def run(*values):
        flags = [
            x == 0 if one.counts else is_finite(x)
            for one, x in zip(found, values, strict=True)
        ]
        # A party that keeps nothing, as one of only merging segments.
        of_all = jnp.stack(flags) if flags else jnp.ones(0, bool)
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


class Verdict:
    """What becomes of a step, from the flags that its parties leave.

    Args:
        config: of the training.
        flags: where they lie, by party.
    """

    def __init__(self, config: Config, flags: Sequence[Name]):
        self.policy, self.flags = config.nonfinite, flags
        # A party on its own machine has flags of its own alone.
        parties = {name.party for name in flags}
        self.names = tuple(x for x in all_watched(config) if x[0] in parties)

    def finite(self, store: StoreLike) -> Finite | None:
        """The flags of a step, with the names of what they are about."""
        if self.policy == "allow":
            return None
        flags = {}
        # A plain loop: this runs in every step, and a comprehension is a call.
        for name in self.flags:
            flags[name.party] = store[name]
        return Finite(flags, self.names)

    def __call__(self, finite: Finite | None, step: Callable[[], int]) -> None:
        """Refuse a step that leaves what is not finite, if that is the policy.

        Args:
            finite: the flags of the step.
            step: gives its number, counted from 1.

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
                raise NotFinite(refusal(f"step {step()}", finite))


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


def refusal(when: str, finite: Finite) -> str:
    """The words of a refusal."""
    return (
        f"{when} leaves what is not finite or out of range: "
        f"{', '.join(finite.nonfinite())}. The state in hand is that before it; "
        'nonfinite="skip" leaves such steps out, "allow" lets them pass.'
    )
