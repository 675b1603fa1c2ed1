"""The store: everything at hand while a step runs, by the names of what it is.

`load` puts a state and a batch into it and `save_back` makes a state of
it. Nothing else turns one form into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.frozen import divided, joined
from jsplit.core.paths import Path
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.crossing import remembering, secret_senders
from jsplit.training.kinds import Kind
from jsplit.training.left_out import Weights
from jsplit.training.loss_scale import scale_names
from jsplit.training.strengths import strength_name, strengths_of
from jsplit.training.walk import Name, Store
from jsplit.training.wires import wires


class Frozen(NamedTuple):
    """Where the part of parameters, or of a state, lies that no step changes.

    Attributes:
        name: where it lies.
        changes: which leaves are no part of it, by path.
    """

    name: Name
    changes: Callable[[Path], bool]


class PartyLayout(NamedTuple):
    """Under which names one party's state lies in a store, and each field that it holds.

    Attributes:
        params: parameters, by node; of those in `frozen` the trained part.
        state: statistics, by node; of those in `frozen` what may change.
        frozen: by the name of either, where the part lies that no step changes.
        optimizer: the state of its optimizer.
        links: memory of the links it sends through, and of those that keep one
            where they arrive, by the label of the message; a dynamic loss scale is
            kept beside them.
        key: the key that the parties agreed on.
        step: the number of steps taken.
        strengths: numbers that its losses and links read, by name.
        fields: fields of the batch.
        weight: how much each example counts, [batch]; `None` lies there
            if all count alike.
        micro: the number of the micro-batch.
        secret: the party's secret key; `None` if it draws no secret noise.
        noise: what tells a call of inference from all others.
    """

    params: dict[str, Name]
    state: dict[str, Name]
    frozen: dict[Name, Frozen]
    optimizer: Name
    links: dict[str, Name]
    key: Name
    step: Name
    strengths: dict[str, Name]
    fields: dict[str, Name]
    weight: Name
    micro: Name
    secret: Name | None
    noise: Name


Layout = Mapping[str, PartyLayout]
"""By party. A party on its own machine has a layout of one entry."""


def layout_of(config: Config) -> dict[str, PartyLayout]:
    """The layout of all parties."""
    topology, strengths = config.topology, strengths_of(config)
    linked = [w for w in wires(topology) if (w.kind, w.what) in config.links]
    drawing = secret_senders(config)
    found = {}
    for p in topology.parties:
        own = [n.name for n in topology.segments if n.party == p]
        labels = [w.label for w in linked if p in remembering(config, w)]
        found[p] = PartyLayout(
            params={n: Name(p, Kind.PARAMS, n) for n in own},
            state={n: Name(p, Kind.STATE, n) for n in own},
            frozen=_frozen([topology.node[n] for n in own]),
            optimizer=Name(p, Kind.OPTIMIZER),
            links={label: Name(p, Kind.LINK, label) for label in labels}
            | {name.what: name for name in scale_names(config, p)},
            key=Name(p, Kind.KEY),
            step=Name(p, Kind.STEP),
            strengths={n: strength_name(p, x) for n, x in strengths[p].items()},
            fields={f: Name(p, Kind.VALUE, f) for f in topology.holds.get(p, ())},
            weight=Name(p, Kind.WEIGHT),
            micro=Name(p, Kind.MICRO),
            secret=Name(p, Kind.SECRET) if p in drawing else None,
            noise=Name(p, Kind.NOISE),
        )
    return found


def params_names(node: Node) -> tuple[Name, ...]:
    """Where the parameters of a node lie: those that are trained, and the frozen ones."""
    name = Name(node.party, Kind.PARAMS, node.name)
    if node.segment.trains is None:
        return (name,)
    return name, name._replace(kind=Kind.FROZEN)


def state_names(node: Node) -> tuple[Name, ...]:
    """Where the state of a node lies: what may change, and what never does."""
    name = Name(node.party, Kind.STATE, node.name)
    if node.segment.moves is None:
        return (name,)
    return name, name._replace(kind=Kind.FROZEN_STATE)


def whole(parts: Sequence[PyTree]) -> PyTree:
    """What lies at `params_names`, or at `state_names`, as one."""
    return joined(*parts) if len(parts) > 1 else parts[0]


def _frozen(nodes: Sequence[Node]) -> dict[Name, Frozen]:
    found: dict[Name, Frozen] = {}
    for node in nodes:
        segment = node.segment
        for changes, names in (
            (segment.trains, params_names(node)),
            (segment.moves, state_names(node)),
        ):
            if changes is not None:
                found[names[0]] = Frozen(names[1], changes)
    return found


def load(
    layout: Layout,
    state: TrainState,
    batch: Mapping[str, PyTree] | None = None,
    weight: Weights | None = None,
    noise: PyTree = None,
) -> Store:
    """A store with the state of every party in it, and a batch if one is given.

    Args:
        layout: of the parties whose state it is.
        state: what they carry from step to step.
        batch: fields, [batch, ...] each, which go to every party that
            holds them; others are left out. Without a batch there are
            no weights in the store either.
        weight: how much each example counts, [batch]; `None`: all count
            alike.
        noise: of a call of inference, what tells it from others, for those
            that draw secret noise.

    Returns:
        The store; `save_back` is the inverse.

    Raises:
        ValueError: if the state has other parties, nodes or links than
            the layout, or lacks a secret or has one that nobody draws of.
    """
    # By name, not only by structure: another trainer's state could have
    # the same shapes.
    if state.parties.keys() != layout.keys():
        raise ValueError(
            f"the state is of another trainer: it has the parties {list(state.parties)}, "
            f"expected {list(layout)}."
        )
    store: Store = {}
    for party, at in layout.items():
        own = state.parties[party]
        if at.params.keys() != own.params.keys():
            raise _of_another_trainer(party, "nodes", own.params, at.params)
        if at.links.keys() != own.links.keys():
            raise _of_another_trainer(party, "links", own.links, at.links)
        if at.strengths.keys() != own.strengths.keys():
            raise _of_another_trainer(party, "strengths", own.strengths, at.strengths)

        # Plain loops: this runs in every step, and each comprehension
        # is a call.
        for n, name in at.params.items():
            store[name] = own.params[n]
        for n, name in at.state.items():
            store[name] = own.state[n]
        for name, (other, changes) in at.frozen.items():
            store[name], store[other] = divided(changes, store[name])
        for label, name in at.links.items():
            store[name] = own.links[label]
        for n, name in at.strengths.items():
            store[name] = own.strengths[n]
        store[at.optimizer] = own.optimizer
        store[at.key] = own.key
        store[at.step] = own.step
        if at.secret is not None:
            if own.secret is None:
                raise _without_secret(party)
            store[at.secret] = own.secret
            if batch is not None:
                store[at.noise] = noise
        elif own.secret is not None:
            raise _with_secret(party)

        # A field that several parties hold lies at each: names are of
        # one party alone.
        if batch is not None:
            store[at.weight] = weight
            for f, name in at.fields.items():
                if f in batch:
                    store[name] = batch[f]
    return store


# Errors are made apart, so that what runs in every step stays short.
def _of_another_trainer(
    party: str, what: str, got: Mapping, expected: Mapping
) -> ValueError:
    return ValueError(
        f"the state of `{party}` is of another trainer: it has the {what} {list(got)}, "
        f"expected {list(expected)}."
    )


def _without_secret(party: str) -> ValueError:
    return ValueError(
        f"the state of `{party}` has no secret key, and it sends through a link that "
        "draws from one (`secret=True`): it is of another trainer, or older than that "
        "link. Begin with a state of this trainer's `init`."
    )


def _with_secret(party: str) -> ValueError:
    return ValueError(
        f"the state of `{party}` has a secret key, and no link of this trainer that it "
        "sends through draws from one (`secret=True`): it is of another trainer."
    )


def save_back(layout: Layout, store: Store) -> TrainState:
    """The state that lies in a store; the inverse of `load`."""
    # In the order of the layout: so are the parties of a state that
    # `load` was given.
    parties = {}
    for party, at in layout.items():
        own = at.strengths
        params = {n: store[name] for n, name in at.params.items()}
        state = {n: store[name] for n, name in at.state.items()}
        for name, (other, _) in at.frozen.items():
            held = params if name.kind == Kind.PARAMS else state
            held[name.what] = joined(held[name.what], store[other])
        parties[party] = PartyState(
            params,
            state,
            store[at.optimizer],
            {label: store[name] for label, name in at.links.items()},
            store[at.key],
            store[at.step],
            None if at.secret is None else store[at.secret],
            {n: store[name] for n, name in own.items()} if own else {},
        )
    return TrainState(parties)


def key_and_step(layout: Layout, key: PyTree, step: PyTree) -> Store:
    """One key and one number of steps, at all parties.

    Args:
        layout: of the parties.
        key: the key that they agreed on.
        step: the number of steps taken.

    Returns:
        That part of a store which, with all that is of the kinds
        `LEARNED`, is a state.
    """
    # Two names may hold one array here: whoever donates a store must
    # copy.
    found: Store = {}
    for at in layout.values():
        found[at.key], found[at.step] = key, step
    return found
