"""`views`: what each party has and sees, from the topology and the jaxprs of its walk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import combinations

from jsplit.core.base import PyTree, TrainState
from jsplit.core.tables import plain
from jsplit.core.trainer import Trainer
from jsplit.privacy.viewing.all_views import Views
from jsplit.privacy.viewing.asking import asked, largest_of, shapes_of
from jsplit.privacy.viewing.examining import Examined, examine
from jsplit.privacy.viewing.records import Seen, Together
from jsplit.privacy.viewing.structure import depends, labels_of, taught
from jsplit.privacy.viewing.view import View
from jsplit.topology.graph import Topology
from jsplit.topology.own_values import carried_over
from jsplit.topology.text import lent_in_words
from jsplit.training.config import Config
from jsplit.training.configure import Links, Optimizers
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.walk import Wire
from jsplit.training.walks import all_wires

_ALL_SETS = 6  # parties up to which each set of them is looked at

_EVERYONE = (
    "the seed: with the code of a segment the parameters that it draws at the start "
    "(not those of an nnx module or of `variables`), dropout masks, and whatever a link "
    "draws from the key that all agreed on",
    "names, shapes, dtypes and bytes of what each sends to each, and when",
    "the number of the step, how many records are in it, and their weights",
    "over a network: what goes by way of the lead is sealed, it sees sizes and times; it "
    "compares the number of ids and a digest of them",
)


def views(
    topology: Topology | Trainer,
    batch: Mapping[str, PyTree] | None = None,
    *,
    optimizer: Optimizers | None = None,
    links: Links | None = None,
    nonfinite: str | None = None,
    state: TrainState | None = None,
) -> Views:
    """What each party has, gets, sends, and can tell from what it gets.

    Every message of a step and of an evaluation is followed through the jaxprs of all
    segments, losses, links and derivatives, back to the fields. Proven is that a message
    *is* a field, rearranged in a way that can be undone (reshaped, permuted, scaled,
    shifted, one-hot, embedded, ...), that it has some of its entries, or that its
    receiver gets one from it with what it has itself, as a label from `p - label`.
    What is not proven is not claimed; that nothing is proven does not say that nothing
    leaks. For that there are attacks.

    Sums of entries with factors of the code (differences, a constant matrix, a Fourier
    transform, shares sent to several parties) are solved together, as far as they can
    be, for records of up to some 350 numbers. Several arrays, of one message or of
    several, are looked at together: `abs(x)` and `sign(x)`, a norm and a direction, a
    quotient and a remainder, `log_softmax` and `logsumexp` give `x` (up to whole turns
    where they are `cos` and `sin`). Not found are, among
    others: learned matrices and convolutions; alone, numbers less their mean, or divided
    by their deviation or norm; `softmax`, most quotients; pooling, `argmax`; long loops;
    several entries mixed in one number that is no sum; rounded numbers; and labels behind
    class weights, a Huber or a focal loss. What is sorted, picked or made in a branch as
    the records say is a part of the field ("up to"): where its entries are is not told.
    What is drawn from a key of the code is as known as the code, and what is public as
    known as the observers' own.
    `init` of a trainer refuses by the same proofs what crosses without parameters before
    it, unless its field is public.

    Proofs are by the rules of real numbers, as far as floats bear them for fields with
    values between -1 and 1: `(x + 1e30) - 1e30`, `x * 1e-45` and `tanh(1e6 * x)` are not
    taken to be `x`, by bounds of what the constants of the code leave (2**-20 of a
    float32). A learned number is taken not to be 0, no two rows of a learned table to be
    equal, and class numbers to lie in their tables. Proofs are of two records, and of
    loops and branches only what goes in and out. What algorithms over rounds hand from
    client to client is no message of a topology and is not in the views.

    Args:
        topology: who computes what; or a trainer, which knows its links and optimizers.
        batch: the fields, arrays or `jax.ShapeDtypeStruct`, each [batch, ...]; of their
            values only the largest class number or token matters, which a one-hot is
            compared with. Without it messages are not looked into.
        optimizer: as for `jsplit.fused`; some exchange numbers. By default none does.
        links: as for `jsplit.fused`.
        nonfinite: as for `jsplit.fused`; `"skip"` exchanges counts.
        state: a trainer's, whose parameters are taken instead of those that segments
            draw; only shapes matter.

    Returns:
        `Views`: by party a `View`, and what sets of parties have together. `print` shows
        tables.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jax, jsplit
        >>> raw = jsplit.segment(lambda x: x[:, ::-1] + 1)
        >>> top = jsplit.segment(lambda w, h: h @ w, init=lambda key, h: h[0])
        >>> topology = jsplit.vanilla(raw, top, loss=lambda y, label: (y - label) ** 2)
        >>> x, label = (jax.ShapeDtypeStruct(s, "float32") for s in ((8, 4), (8,)))
        >>> views = jsplit.privacy.views(topology, {"x": x, "label": label})
        >>> [str(proof) for proof in views["server"].receives[0].gives]
        ['is `x`']
        >>> views["server"].can("hijacking").possible
        False
    """
    config = asked(topology, optimizer, links, nonfinite)
    parts = config.topology
    examined = None
    if batch is not None:
        shapes = shapes_of(config, batch)
        examined = examine(config, shapes, state, largest_of(batch))
    lessons = taught(parts)
    seen = [
        replace(s, taught=_lessons(parts, s, lessons))
        for s in (_seen(config, wire, examined) for wire in all_wires(config))
    ]
    return Views(
        {p: _view(parts, p, seen, examined) for p in parts.parties},
        tuple(_together(parts, ps, seen, examined) for ps in _sets(parts.parties)),
        (*_EVERYONE, *(f"the public field {name}" for name in parts.public)),
        examined is not None,
    )


def _seen(config: Config, wire: Wire, examined: Examined | None) -> Seen:
    """A message as a record."""
    ends = (wire.what, str(wire.kind), wire.sender, wire.receiver)
    linked = (wire.kind, wire.what) in config.links
    crossed = examined.crossed.get(wire) if examined else None
    carries: tuple[str, ...] = ()
    if wire.kind != WireKind.SCALAR:
        reader = wire.receiver if wire.kind == WireKind.ACTIVATION else wire.sender
        carries = carried_over(config.topology, wire.what, reader)
    if crossed is None:
        modes = ("training", "inference")
        own = depends(config.topology, wire)
        modes = modes if wire.kind == WireKind.ACTIVATION else modes[:1]
        return Seen(*ends, modes, own.fields, own.nodes, linked=linked, carries=carries)
    return Seen(
        *ends,
        crossed.modes,
        crossed.fields,
        crossed.nodes,
        crossed.message.shape,
        str(plain(crossed.message.dtype)),
        crossed.message.bytes,
        crossed.numbers,
        crossed.gives,
        crossed.enough_for,
        linked,
        crossed.value_gives,
        carries,
    )


def _lessons(
    topology: Topology, seen: Seen, lessons: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """The fields that what computes a message is trained on."""
    found = frozenset[str]().union(*(lessons[n] for n in seen.nodes))
    return tuple(f for f in topology.fields if f in found)


def _view(
    topology: Topology, party: str, seen: Collection[Seen], examined: Examined | None
) -> View:
    nodes = [n for n in topology.segments if n.party == party]
    losses = [n for n in (*topology.losses, *topology.metrics) if n.party == party]
    trains = tuple(n.name for n in nodes if n.segment.trainable)
    gets = tuple(s for s in seen if s.receiver == party)
    values = [s.name for s in gets if s.kind == "activation"]
    return View(
        party,
        tuple(topology.holds.get(party, ())),
        tuple(n.name for n in nodes),
        trains,
        tuple(n.name for n in nodes if _has_statistics(n.name, party, examined)),
        bool(trains),
        tuple(x.name for x in losses),
        labels_of(topology),
        (*values, *(n.name for n in nodes)),
        gets,
        tuple(s for s in seen if s.sender == party),
        tuple(
            f"{name} reads {lent}"
            for name, lent in lent_in_words(topology.loans)
            if topology.node[name].party == party
        ),
        (*nodes, *losses),
    )


def _has_statistics(node: str, party: str, examined: Examined | None) -> bool:
    """Whether a node has a state; without a batch it is not known, so it is not said."""
    if examined is None:
        return False
    for name, leaves in examined.walks[0].start.items():
        if name[:3] == (party, Kind.STATE, node):
            return bool(leaves)
    return False


def _sets(parties: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sets of parties, but not all of them."""
    count = len(parties)
    sizes = range(1, count) if count <= _ALL_SETS else sorted({1, 2, count - 1})
    return [s for size in sizes for s in combinations(parties, size)]


def _together(
    topology: Topology,
    parties: tuple[str, ...],
    seen: Collection[Seen],
    examined: Examined | None,
) -> Together:
    held = {f for p in parties for f in topology.holds.get(p, ())}
    others = [s for s in seen if {s.sender, s.receiver}.isdisjoint(parties)]
    got = [s for s in seen if s.receiver in parties and s.sender not in parties]
    reach = {f for s in got for f in s.fields} - held
    between = [f"d{s.name}" if s.kind == "cotangent" else s.name for s in others]
    return Together(
        parties,
        tuple(f for f in topology.fields if f in held),
        tuple(f for f in topology.fields if f in reach),
        examined.find_out(parties) if examined else (),
        tuple(dict.fromkeys(between)),
    )
