"""`guarantee`: what is guaranteed of whose records against whom, or "none" and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jsplit.core.base import PyTree
from jsplit.privacy.guarantees.asked import (
    DPSGD,
    check_strengths,
    frozen,
    others_of,
    plan_of,
    subjects,
    trainings,
)
from jsplit.privacy.guarantees.composing import Plan, compose
from jsplit.privacy.guarantees.conditions import assumptions, notes_of, notes_of_number
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.privacy.guarantees.reach import UNKNOWN, Arrival, Setting, Trace, reach
from jsplit.privacy.guarantees.responses import check_responses, entries_of
from jsplit.privacy.guarantees.rows import mixing
from jsplit.privacy.guarantees.statement import Guarantee, Statement
from jsplit.topology.graph import Topology
from jsplit.training.configure import Links, both_ways

MODEL = "whoever gets the trained parameters"
"""An outsider who sees the parameters of all segments, and no message."""


def guarantee(
    topology: Topology,
    fields: Mapping[str, PyTree] | None = None,
    *,
    steps: int,
    batch: int,
    records: int,
    links: Links | None = None,
    epochs: int | None = None,
    sampling: str = "shuffled",
    short: str = "either",
    amplified: bool = False,
    bottoms: str | Mapping[str, str] = "trained",
    dp_sgd: DPSGD | None = None,
    labels: Mapping[str, Mechanism] | None = None,
    strengths: Mapping[str, float] | None = None,
    answers: int = 0,
    together: Sequence[Sequence[str]] = (),
    delta: float | None = None,
    accountant: str = "pld",
) -> Guarantee:
    """What differential privacy guarantees of each party's records against each other party.

    Each record is followed from its fields through values, cotangents and what is
    trained on it, to every message (`Link.mechanism` says what noise there is on it). If
    it gets to somebody bare, by any way, there is no guarantee against him. Else the
    noise that it went through is composed. So noise on activations counts only if what
    computes them is frozen, or trained by DP-SGD, which is composed with it; and DP-SGD
    alone guarantees nothing against a party that receives activations.

    Args:
        topology: who computes what.
        fields: a batch of records that differ, [batch, ...] each, with whose shapes it is
            followed through the programs of segments and losses whether these mix
            records. Without it noise on a record's own vector guarantees nothing.
        steps: of the training.
        batch: records in a step; of Poisson batches their mean.
        records: how many there are.
        links: as for `jsplit.fused`.
        epochs: in how many steps a record is at most; by default as many as there are
            passes begun, which is so where each pass ends before the next begins. With
            `population.round(steps=)` each round begins one: then count, by
            `Round.reads`.
        sampling: how batches are drawn: `"shuffled"` or `"fixed"`: in passes, a record
            at most once in each batch; `"poisson"`: by coins.
        short: what becomes of records that are left over at the end of a pass:
            `"dropped"`: no step reads them (`jsplit.party.run`, `jsplit train` and
            `jsplit.privacy.report` train so), so passes are shorter; `"filled"`: they
            are repeated until the batch is full (`population.round(epochs=)`), so one
            may cross several times in a step; `"either"`: the worse of both.
        amplified: whether to count on nobody who is meant knowing who is in a batch.
            Parties do, and so does everybody with the seed of the population; so it is
            only of an outsider, of Poisson batches, of DP-SGD.
        bottoms: of nodes that fields flow into without a crossing: `"trained"`,
            `"frozen"` (the parameters stay as they are and were not fitted to these
            records), or `"private"` (in `dp_sgd`); or one of these by node, of any node.
        dp_sgd: by node, or by a tuple of nodes that are clipped in one norm, the noise
            on the sum of clipped gradients of the records. Of a segment of
            `jsplit.privacy.private` its `noise.mechanism`, in an entry of its own.
        labels: by field, the noise that each label got before training. Of a record
            with several, as tokens, all count: their number is that of `fields`.
        strengths: by name, the least that a `jsplit.Strength` is in any step, in the
            place of its first value.
        answers: how often activations of a record are sent in `evaluate` and `predict`.
        together: sets of parties that put together what they have.
        delta: by default 1e-5, or a tenth of 1 / records if that is less.
        accountant: of amplified DP-SGD, `"pld"` (tight) or `"rdp"` (fast).

    Returns:
        Statements, by party, features or labels, and against whom; also against
        `whoever gets the trained parameters`.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Dwork & Roth, The algorithmic foundations of differential privacy, 2014
        (composition, post-processing); Dong, Roth & Su, `Gaussian differential privacy
        <https://arxiv.org/abs/1905.02383>`_, 2019.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: 1.0)
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: (y - label) ** 2)
        >>> print(jsplit.privacy.guarantee(topology, steps=10, batch=8, records=80))
        features (x) of client against server: none
          why: `output` is trained on it without noise
          why: `smashed` goes from client to server without a mechanism
          why: `smashed` is trained on it without noise
        features (x) of client against whoever gets the trained parameters: none
          why: `output` is trained on it without noise
          why: `smashed` is trained on it without noise
        labels (label) of server against client: none
          why: `output` is trained on it without noise
          why: `smashed` is trained on it without noise
          why: the cotangent of `smashed` goes from server to client without a mechanism
        labels (label) of server against whoever gets the trained parameters: none
          why: `output` is trained on it without noise
          why: `smashed` is trained on it without noise
    """
    plan = plan_of(
        *(topology, steps, batch, records, epochs, sampling),
        short=short,
        amplified=amplified,
        answers=answers,
        delta=delta,
        accountant=accountant,
    )
    check_responses(labels or {}, topology)
    plan = plan._replace(entries=entries_of(fields, labels or {}))
    linked = both_ways(topology, links)
    declared = [*(dp_sgd or {}).values(), *(labels or {}).values()]
    check_strengths(strengths or {}, linked, declared)
    setting = Setting(
        topology,
        linked,
        None if fields is None else mixing(topology, fields, batch),
        frozen(topology, bottoms, dp_sgd or {}),
        trainings(topology, dp_sgd or {}, strengths or {}),
        labels or {},
        strengths or {},
    )
    found = []
    for party, held in topology.holds.items():
        for about, names in subjects(topology, party, held, setting.links):
            arrivals, trained = reach(setting, names)
            asking = _Asking(setting, plan, party, about, names)
            for others in others_of(topology, party, together):
                found.append(asking.against(others, arrivals))
            found.append(asking.outside(trained))
    return Guarantee(tuple(found))


@dataclass(frozen=True)
class _Asking:
    """One party's records, about which statements are made."""

    setting: Setting
    plan: Plan
    party: str
    about: str
    fields: tuple[str, ...]

    def against(
        self, others: tuple[str, ...], arrivals: Sequence[Arrival]
    ) -> Statement:
        """The statement against parties that put together what they have."""
        seen = Trace()
        for a in arrivals:
            if a.receiver in others and a.sender not in others:
                seen = seen | a.trace
        holds = self.setting.topology.holds
        for p in others:
            if own := [f for f in self.fields if f in holds.get(p, ())]:
                why = f"{p} holds {', '.join(f'`{f}`' for f in own)} itself"
                seen = seen | Trace(row=frozenset([why]))
        return self._state(" + ".join(others), seen, parameters_only=False)

    def outside(self, trained: Trace) -> Statement:
        """The statement against an outsider who gets the trained parameters."""
        return self._state(MODEL, trained, parameters_only=True)

    def _state(self, against: str, seen: Trace, *, parameters_only: bool) -> Statement:
        about = Statement(self.party, self.about, self.fields, against).__dict__
        about = {k: about[k] for k in ("party", "about", "fields", "against")}
        notes = tuple(notes_of(self.setting, parameters_only=parameters_only))
        if why := sorted(seen.row | seen.wide):
            # That something was not tried is a reason only where there is no other.
            known = [w for w in why if not w.startswith(UNKNOWN)]
            return Statement(**about, why=tuple(known or why), notes=notes)
        found = compose(
            seen.released, self.plan, self.about, parameters_only=parameters_only
        )
        if found.epsilon is None:
            return Statement(**about, why=(found.why,), notes=notes)
        pure = not any(r.mechanism.kind == "gaussian" for r in seen.released)
        return Statement(
            **about,
            epsilon=found.epsilon,
            delta=0.0 if pure else self.plan.delta,
            mu=found.mu,
            times=found.times,
            adjacency=found.adjacency,
            formula=found.formula,
            source=found.source,
            assumptions=tuple(
                assumptions(
                    self.setting, self.plan, seen, parameters_only=parameters_only
                )
            ),
            notes=(*notes_of_number(self.plan, seen, found.epsilon), *notes),
        )
