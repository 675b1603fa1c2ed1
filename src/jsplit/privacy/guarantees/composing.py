"""Noise that a record went through, counted and composed into one epsilon."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf, sqrt
from types import MappingProxyType
from typing import NamedTuple

from jsplit.privacy.guarantees.gaussian import composed_mu, gaussian_epsilon
from jsplit.privacy.guarantees.pure import laplace_epsilon, response_epsilon
from jsplit.privacy.guarantees.reach import Release
from jsplit.privacy.guarantees.sampled import counted_epsilon, sampled_epsilon

GAUSSIAN = "Balle & Wang, arXiv:1805.06530, theorem 8; Dong et al., arXiv:1905.02383"
PURE = "Dwork et al., 2006; Kairouz et al., arXiv:1407.1338"
REPLACE = "one record's {} are replaced by any others; who is in which batch is known"
ADD = "one record is there or not"


class Plan(NamedTuple):
    """How often records are read.

    Attributes:
        steps: of the training.
        records: how many there are.
        rate: the part of the records that a batch has.
        uses: in how many steps a record is at most.
        copies: in how many rows of such a step it may stand: a short batch is filled up.
        answers: how often its activations are sent outside training.
        poisson: whether batches are drawn by coins.
        amplified: whether the coins are nobody's who is meant.
        constant: whether every loss divides by a constant.
        delta: that of the result.
        accountant: "pld" or "rdp".
        batch: records in a step.
        short: what becomes of a short last batch, as for `guarantee`.
        entries: by field that has noise, how many labels a record has, if it is known.
    """

    steps: int
    records: int
    rate: float
    uses: int
    copies: int
    answers: int
    poisson: bool
    amplified: bool
    constant: bool
    delta: float
    accountant: str
    batch: int
    short: str
    entries: Mapping[str, int] = MappingProxyType({})


class Composed(NamedTuple):
    """An epsilon, and how it came about; or why there is none."""

    epsilon: float | None
    mu: float | None = None
    times: tuple[tuple[str, int], ...] = ()
    adjacency: str = ""
    formula: str = ""
    source: str = ""
    why: str = ""


def compose(
    releases: Collection[Release], plan: Plan, about: str, *, parameters_only: bool
) -> Composed:
    """One epsilon of all noise that a record went through.

    Args:
        releases: the noise.
        plan: how often records are read.
        about: "features" or "labels".
        parameters_only: whether only trained parameters are seen, not messages.
    """
    releases = sorted(releases, key=str)
    if not releases:
        how = "nothing that depends on it gets there"
        return Composed(0.0, adjacency=REPLACE.format(about), formula=how, source="-")
    trained = [r for r in releases if r.kind == "training"]
    crossed = [r for r in releases if r.kind in ("activation", "cotangent")]
    if plan.amplified and parameters_only and trained:
        return _amplified(releases, trained, plan)
    if plan.poisson and crossed:
        why = (
            "batches drawn by coins are filled up with their own records, and each row "
            "crosses with noise of its own: how often a record does has no bound"
        )
        return Composed(None, why=why)
    counts = {r: _count(r, plan) for r in releases}
    normal = [r for r in releases if r.mechanism.kind == "gaussian"]
    pure = {str(r): counts[r] * _pure(r) for r in releases if r not in normal}
    sources = [GAUSSIAN] * bool(normal) + [PURE] * bool(pure)
    mu, epsilon, words = None, sum(pure.values()), []
    if normal and plan.poisson:
        one = composed_mu(_mu(r) for r in normal)
        epsilon += counted_epsilon(one, plan.rate, plan.steps, plan.delta)
        words.append(
            f"the mean over k of delta(epsilon; {one:.4g} sqrt(k)), k binomial of "
            f"{plan.steps} steps at rate {plan.rate:.4g}"
        )
    elif normal:
        mu = composed_mu(_mu(r) * sqrt(counts[r]) for r in normal)
        epsilon += gaussian_epsilon(plan.delta, mu)
        terms = " + ".join(f"{counts[r]} (2 / {_scale(r):g})^2" for r in normal)
        words.append(f"mu = sqrt({terms})")
        words.append("delta = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu)")
    words += [f"{e:.4g} of {name}" for name, e in pure.items()]
    return Composed(
        epsilon if epsilon < inf else None,
        mu,
        # Where coins decide there is no one number.
        () if plan.poisson else tuple((str(r), counts[r]) for r in releases),
        REPLACE.format(about),
        "; ".join(words),
        "; ".join(sources),
        "" if epsilon < inf else "there is no noise",
    )


def _amplified(
    releases: Collection[Release], trained: Collection[Release], plan: Plan
) -> Composed:
    """DP-SGD alone, on batches drawn by coins that nobody sees."""
    if not plan.poisson:
        why = (
            "the batches are no Poisson batches: accounting for coins is no proof for "
            "shuffled or fixed ones (`amplified` asks for it)"
        )
        return Composed(None, why=why)
    if not plan.constant:
        why = (
            "a loss divides by its batch's own weights, so one record changes the scale "
            "of all others: give `Loss(per=...)`"
        )
        return Composed(None, why=why)
    if len(trained) < len(releases):
        why = "sampling amplifies DP-SGD, not what went through other noise"
        return Composed(None, why=why)
    # Parts clipped by themselves see the same batch: as one vector, in units of its
    # noise, it moves by the root of the sum of squares.
    noise = 1 / composed_mu(1 / _scale(r) for r in trained)
    epsilon = sampled_epsilon(noise, plan.rate, plan.steps, plan.delta, plan.accountant)
    how = (
        f"{plan.accountant.upper()} accountant: noise {noise:.4g}, rate "
        f"{plan.rate:.4g}, {plan.steps} steps"
    )
    source = "dp-accounting; Abadi et al., arXiv:1607.00133"
    times = tuple((str(r), plan.steps) for r in trained)
    return Composed(epsilon, None, times, ADD, how, source)


def _scale(release: Release) -> float:
    scale = release.mechanism.scale
    assert isinstance(scale, float | int)  # `Mechanism.at` has put it in
    return float(scale)


def _mu(release: Release) -> float:
    # Two vectors of norm C are at most 2 C apart, those on a grid too: rounded toward
    # zero none is longer. Noise rounded to the grid is that of their sum, rounded.
    return 2 / _scale(release)


def _pure(release: Release) -> float:
    m = release.mechanism
    if m.kind == "response":
        return response_epsilon(m.keep, m.classes)
    return laplace_epsilon(_scale(release))


def _count(release: Release, plan: Plan) -> int:
    """How often noise is drawn for one record."""
    if release.kind == "field":
        # Drawn once and kept, it is the same however often it is read.
        anew = release.mechanism.per == "step"
        # Of coins the worst: in every step.
        uses = plan.steps if plan.poisson else plan.uses
        once = uses * plan.copies + plan.answers if anew else 1
        # Each label of a record, as of tokens, has an answer, and a record all of them.
        return once * plan.entries.get(release.name, 1)
    if release.kind == "training":
        # What fills up a batch has weight 0 and no part in a sum.
        return plan.uses
    return plan.uses * plan.copies + plan.answers * (release.kind == "activation")
