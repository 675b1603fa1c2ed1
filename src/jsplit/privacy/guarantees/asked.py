"""What `guarantee` is asked, checked and brought into its own form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

from jsplit.core.base import Link
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.strength import Strength
from jsplit.privacy.guarantees.composing import Plan
from jsplit.privacy.guarantees.gaussian import probability
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.privacy.guarantees.reach import Release
from jsplit.privacy.guarantees.sampled import ACCOUNTANTS
from jsplit.topology.graph import Topology

DPSGD = Mapping[str | tuple[str, ...], Mechanism]
"""By the node, or by all nodes that are clipped in one norm, the noise of their DP-SGD."""

SHORT = ("either", "filled", "dropped")
"""What becomes of the records that are left over at the end of a pass."""


def others_of(
    topology: Topology, party: str, together: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """The other parties, and those sets of parties that one is not in."""
    alone = [(p,) for p in topology.parties if p != party]
    for group in together:
        for p in group:
            if p not in topology.parties:
                raise ValueError(f"`together` names `{p}`, which is no party.")
    return alone + [tuple(g) for g in together if party not in g]


def subjects(
    topology: Topology,
    party: str,
    held: Sequence[str],
    links: Mapping[tuple[str, str], Link],
) -> list[tuple[str, tuple[str, ...]]]:
    """A party's features, which segments or links read, and its labels, which only losses do."""
    read = {i for n in topology.segments for i in n.reads}
    # A link that is told a field may send it, though nothing else reads it.
    for c in topology.crossings:
        for kind, sender in (("activation", c.sender), ("cotangent", c.receiver)):
            if sender == party:
                told = getattr(links.get((kind, c.name)), "reads", ())
                labels = {i for x in topology.losses for i in x.reads}
                read |= {*told} - labels
    compared = {i for x in (*topology.losses, *topology.metrics) for i in x.reads}
    features = tuple(f for f in held if f in read)
    labels = tuple(f for f in held if f in compared - read)
    return [(a, f) for a, f in (("features", features), ("labels", labels)) if f]


def plan_of(
    topology: Topology,
    steps: int,
    batch: int,
    records: int,
    epochs: int | None,
    sampling: str,
    *,
    short: str,
    amplified: bool,
    answers: int,
    delta: float | None,
    accountant: str,
) -> Plan:
    """How often records are read; the arguments are those of `guarantee`."""
    check_topology(topology)
    for name, x in (("steps", steps), ("batch", batch), ("records", records)):
        as_positive_int(name, x)
    if batch > records:
        raise ValueError(f"`batch` is {batch}, but there are only {records} `records`.")
    if sampling not in ("shuffled", "fixed", "poisson"):
        raise ValueError(
            '`sampling` must be "shuffled", "fixed" or "poisson", got '
            f"{shown(sampling)}."
        )
    if short not in SHORT:
        raise ValueError(
            f'`short` must be "either", "filled" or "dropped", got {shown(short)}.'
        )
    if accountant not in ACCOUNTANTS:
        raise ValueError(
            f'`accountant` must be "pld" or "rdp", got {shown(accountant)}.'
        )
    if answers != 0:
        as_positive_int("answers", answers)
    uses = _uses(steps, batch, records, epochs, short)
    left = records % batch
    # Coins leave nothing over, and what fills up their batches is counted elsewhere.
    filled = left and (short != "dropped" or sampling == "poisson")
    return Plan(
        steps,
        records,
        batch / records,
        uses,
        # A population fills up a short batch with its own records, which cross again.
        -(-batch // left) if filled else 1,
        answers=answers,
        poisson=sampling == "poisson",
        amplified=amplified,
        batch=batch,
        short=short,
        constant=_constant(topology),
        delta=probability(
            "delta", min(1e-5, 0.1 / records) if delta is None else delta
        ),
        accountant=accountant,
    )


def _uses(steps: int, batch: int, records: int, epochs: int | None, short: str) -> int:
    """In how many steps a record is at most."""
    longest = -(-records // batch)
    in_pass = longest if short == "filled" else records // batch
    # A filled pass may be longer than what it reads, so rows are counted and not steps.
    found = {"filled": -(-steps * batch // records), "dropped": -(-steps // in_pass)}
    counted = max(found.values()) if short == "either" else found[short]
    # Whoever gives `epochs` may have passes of either length.
    least = -(-steps // (in_pass if short == "dropped" else longest))
    uses = counted if epochs is None else epochs
    if as_positive_int("epochs", uses) < least:
        raise ValueError(
            f"`epochs` is {epochs}, but {steps} steps of {batch} of {records} records are "
            f"at least {least}."
        )
    return uses


def _constant(topology: Topology) -> bool:
    """Whether every loss divides by a constant; one of parameters alone has no batch."""
    batched = {*topology.node, *topology.fields}
    return all(
        x.per is not None
        for x in topology.losses
        if x.weight and any(i in batched for i in x.reads)
    )


def check_topology(topology: object) -> None:
    """Refuse a trainer, which has links that would not be looked at."""
    if not isinstance(topology, Topology):
        raise ValueError(
            f"`topology` must be a Topology, got a {type(topology).__name__}; links and "
            "strengths are arguments beside it."
        )


def check_strengths(
    given: Mapping[str, float],
    links: Mapping[tuple[str, str], Link],
    declared: Iterable[object],
) -> None:
    """Refuse strengths that nothing here has, or that are no numbers.

    Args:
        given: what the user gives by name.
        links: of the topology, by kind of message and value.
        declared: mechanisms beside those of links.
    """
    known: set[str] = set()
    for link in links.values():
        for told, x in getattr(link, "strengths", {}).items():
            known |= {told, x.name if isinstance(x, Strength) else told}
    own = [getattr(link, "mechanism", None) for link in links.values()]
    parts = (x if isinstance(x, tuple) else (x,) for x in (*own, *declared))
    for mechanism in (m for part in parts for m in part):
        scale = getattr(mechanism, "scale", None)
        if isinstance(scale, (str, Strength)):
            known.add(scale.name if isinstance(scale, Strength) else scale)
    for name, x in given.items():
        # A misspelt one would leave the first value, and a stronger promise than holds.
        if name not in known:
            raise ValueError(
                f"`strengths` names `{name}`, which no link or mechanism here has; there "
                f"are {', '.join(sorted(known)) or 'none'}."
            )
        if isinstance(x, bool) or not isinstance(x, Real):
            raise ValueError(
                f"`strengths` of `{name}` must be one number, the least that it is in any "
                f"step, got {shown(x)}."
            )


def trainings(
    topology: Topology, dp_sgd: DPSGD, strengths: Mapping[str, float]
) -> dict[str, Release]:
    """By node, the noise of its DP-SGD; nodes clipped in one norm have one."""
    found: dict[str, Release] = {}
    for key, mechanism in dp_sgd.items():
        nodes = (key,) if isinstance(key, str) else key
        if not isinstance(mechanism, Mechanism) or mechanism.kind != "gaussian":
            raise ValueError(
                f"`dp_sgd` of {', '.join(nodes)} must be a Mechanism of the kind "
                f'"gaussian", got {shown(mechanism)}.'
            )
        for n in nodes:
            if n not in topology.node or n in found:
                what = "is no node" if n not in topology.node else "is named twice"
                raise ValueError(f"`dp_sgd` names `{n}`, which {what}.")
            _check_own(topology, n, nodes, mechanism, strengths)
            found[n] = Release("training", ", ".join(nodes), mechanism.at(strengths))
    return found


def _check_own(
    topology: Topology,
    name: str,
    nodes: Sequence[str],
    mechanism: Mechanism,
    strengths: Mapping[str, float],
) -> None:
    """Refuse what is said of DP-SGD where the segment itself says something else."""
    noise = topology.node[name].segment.noise
    own = noise and noise.mechanism
    if not isinstance(own, Mechanism):
        return  # who trains by other means is taken at his word
    # In one norm with others its noise would be counted once for all, and each part has
    # a sensitivity of its own.
    if len(nodes) > 1:
        raise ValueError(
            f"`dp_sgd` has {', '.join(nodes)} in one norm, but `private` clips `{name}` "
            "by itself: give each part an entry of its own."
        )
    if mechanism.at(strengths) != own.at(strengths):
        raise ValueError(
            f"`dp_sgd` of {name} must be what its segment does, its `noise.mechanism`, "
            f"which is {own}, got {mechanism}."
        )


def frozen(
    topology: Topology, bottoms: str | Mapping[str, str], dp_sgd: DPSGD
) -> frozenset[str]:
    """The nodes whose parameters stay as they are, by what the user says."""
    private = {n for key in dp_sgd for n in ((key,) if isinstance(key, str) else key)}
    at_home: list[str] = []
    for n in topology.segments:
        home = {*topology.holds.get(n.party, ())} | {*at_home}
        if all(i in home and _party(topology, i, n.party) == n.party for i in n.reads):
            at_home.append(n.name)
    said = dict.fromkeys(at_home, bottoms) if isinstance(bottoms, str) else bottoms
    for name, what in said.items():
        if name not in topology.node:
            raise ValueError(f"`bottoms` names `{name}`, which is no node.")
        if what not in ("trained", "frozen", "private"):
            raise ValueError(
                '`bottoms` must be "trained", "frozen" or "private", got '
                f"{shown(what)}."
            )
        trainable = topology.node[name].segment.trainable
        if what == "private" and trainable and name not in private:
            raise ValueError(
                f'`bottoms` says "private", but `{name}` is not in `dp_sgd`: give the '
                "`noise.mechanism` of its segment there."
            )
        if what == "frozen" and name in private:
            raise ValueError(
                f'`bottoms` says "frozen", but `{name}` is in `dp_sgd`, and so trained.'
            )
    return frozenset(
        n
        for n, what in said.items()
        if what == "frozen" and topology.node[n].segment.trainable
    )


def _party(topology: Topology, name: str, default: str) -> str:
    return topology.node[name].party if name in topology.node else default
