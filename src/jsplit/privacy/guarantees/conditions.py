"""What must be so for a number to hold, and what else there is to say of it, in words.

`guarantee` counts and composes; here is what its reader has to know, and what jsplit
cannot see by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

from jsplit.privacy.guarantees.composing import Plan
from jsplit.privacy.guarantees.mechanism import NOTES, Mechanism
from jsplit.privacy.guarantees.reach import Setting, Trace
from jsplit.privacy.guarantees.rows import sizes

_WEAK = 10
"""An epsilon above it is said to be weak."""


def assumptions(
    setting: Setting, plan: Plan, seen: Trace, *, parameters_only: bool
) -> Iterable[str]:
    """What must be so for the number to hold.

    Args:
        setting: the topology with its links and what trains.
        plan: how often records are read.
        seen: by what ways records get to whoever is meant.
        parameters_only: whether only trained parameters are seen, not messages.
    """
    if seen.released:
        yield (
            "links and DP-SGD do what they declare; noise comes from keys of their "
            "own parties that nobody else has"
        )
        yield (
            "scales are what is said here in every step: of a strength that is set, "
            "give the least by `strengths`"
        )
        yield (
            "every number that noise is put on is finite: one that is not (NaN, "
            "infinity) is hidden by no noise; it crosses as NaN or infinity, or ends "
            "the step, and so says where it is"
        )
        yield (
            "each step number sends once: a step that is refused, rolled back or "
            "begun again on another batch has the same noise on both"
        )
    if any(r.mechanism.grid for r in seen.released):
        yield (
            "vectors and noise are whole multiples of grid * clip and so are their "
            "sums, exactly; vectors that are rounded are of norm clip at most (as "
            "toward zero), so two are at most 2 clip apart; noise is drawn as from the "
            "normal distribution, up to rounding to the grid, or as from the Laplace "
            "distribution on the grid, up to rounding of its probabilities"
        )
    yield from _of_labels(plan, seen)
    yield from _of_own_training(setting, seen)
    if any(r.kind != "field" for r in seen.released):
        if not plan.constant:
            yield (
                "a loss without `per` divides by the sum of its batch's weights, so these "
                "are the same whatever the records are: no weights of tokens are given"
            )
        many = " and of ".join(map(str, sizes(plan.batch)))
        yield (
            "segments and losses keep the records of a batch apart: their programs are "
            f"shown to at batches of {many} records, and do the same at any other size"
        )
    yield from _of_what_is_frozen(setting)
    yield _reading(plan)
    if plan.amplified and parameters_only and seen.released:
        yield "who is meant has neither the seed of the batches nor any message"
    yield (
        f"covered are {plan.steps} steps and {plan.answers} other sendings of a "
        "record; not ids, who takes part, times, sizes, what optimizers exchange, "
        "nor what rounds hand from client to client"
    )


def _of_labels(plan: Plan, seen: Trace) -> Iterable[str]:
    """How many answers a record has, where nobody has shown it."""
    told = {r.name for r in seen.released if r.kind == "field"} - {*plan.entries}
    if told:
        names = ", ".join(f"`{f}`" for f in sorted(told))
        yield f"a record has one label in {names} (of tokens it has many: give `fields`)"


def _of_own_training(setting: Setting, seen: Trace) -> Iterable[str]:
    """Whose DP-SGD is nobody's word but the user's."""
    there = {r for r in seen.released if r.kind == "training"}
    trained = [n for n, release in setting.trained.items() if release in there]
    noise = {n: setting.topology.node[n].segment.noise for n in trained}
    own = [n for n, x in noise.items() if x is None or x.mechanism is None]
    if own:
        names = ", ".join(f"`{n}`" for n in sorted(own))
        yield (
            f"{names}: DP-SGD is your own, as `dp_sgd` says; the segment adds no noise "
            "(`jsplit.privacy.private` makes one that does)"
        )
        yield f"what trains {names} reads no loss, which has no noise"


def _of_what_is_frozen(setting: Setting) -> Iterable[str]:
    """What is not trained might tell of records that it was fitted to before."""
    if setting.frozen:
        names = ", ".join(f"`{n}`" for n in sorted(setting.frozen))
        yield (
            f"the parameters of {names} stay as they are, and were not fitted to "
            "these records"
        )
    segments = setting.topology.segments
    based = {n.name for n in segments if n.segment.trains is not None}
    if based := based - setting.frozen:
        names = ", ".join(f"`{n}`" for n in sorted(based))
        yield (
            f"what `trainable` freezes of {names} (the base under adapters) was not "
            "fitted to these records, and its parties begin with no other"
        )


_SHORT = {
    "either": (
        "what is left over at the end of a pass is read by no step, or repeated until "
        "its batch is full, and"
    ),
    "filled": "what is left over at the end of a pass is repeated until its batch is full, and",
    "dropped": "what is left over at the end of a pass is read by no step, and",
}


def _reading(plan: Plan) -> str:
    """How records come into batches."""
    if plan.poisson:
        return (
            "each record is in each batch by a coin of its own, and no draw is cut "
            "off; that a draw over its capacity stops the run is not counted"
        )
    left = f"{_SHORT[plan.short]} " if plan.records % plan.batch else ""
    return (
        f"a record is in at most {plan.uses} steps (`epochs`), and drawn at most once in "
        "each batch: so it is where a pass over all records ends before the next begins, not "
        "in rounds of a number of steps, each of which begins a pass; "
        f"{left}no example has weight 0"
    )


def notes_of_number(plan: Plan, seen: Trace, epsilon: float) -> Iterable[str]:
    """What to know of a number that holds and says little, or is larger than it need be.

    Args:
        plan: how often records are read.
        seen: by what ways records get to whoever is meant.
        epsilon: the number.
    """
    if epsilon > _WEAK:
        yield (
            f"epsilon above {_WEAK} is weak: it allows odds about a record to change "
            f"by more than a factor of {exp(_WEAK):.0f}"
        )
    if plan.delta * plan.records >= 1:
        yield "delta is not below 1 / records: it allows one record to be published"
    crosses = any(r.kind in ("activation", "cotangent") for r in seen.released)
    if plan.copies > 1 and crosses and not plan.poisson:
        yield (
            f"{plan.records} records in batches of {plan.batch} leave "
            f"{plan.records % plan.batch} over in each pass. Repeated until a batch is "
            f"full, one of them crosses up to {plan.copies} times in a step, each time "
            f"with new noise: so {plan.uses} x {plan.copies} times are counted. If your "
            'run leaves them out, as training over the network does, say `short="dropped"`; '
            f"else train on {plan.records - plan.records % plan.batch} records"
        )


def notes_of(setting: Setting, *, parameters_only: bool) -> Iterable[str]:
    """What may be said that is no guarantee.

    Args:
        setting: the topology with its links and what trains.
        parameters_only: whether only trained parameters are seen, not messages.
    """
    if setting.trained and not parameters_only:
        yield (
            "DP-SGD is for those who get the parameters; it hides nothing from a party "
            "that receives activations"
        )
    for (kind, name), link in setting.links.items():
        declared = getattr(link, "mechanism", None)
        parts = declared if isinstance(declared, tuple) else (declared,)
        for m in parts:
            if isinstance(m, Mechanism) and m.kind in NOTES:
                yield f"the link of `{name}` ({kind}), {m.kind}, {NOTES[m.kind]}"
