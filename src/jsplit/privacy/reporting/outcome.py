"""One trainer through all of a report: trained, watched, attacked, measured and costed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import jax
import numpy as np

from jsplit.core.base import PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.core.trees import abstract
from jsplit.costing.count_step import cost
from jsplit.privacy.attacks.attack import seed_of
from jsplit.privacy.reporting.attempt import Attempt
from jsplit.privacy.reporting.inference import decoded, inference_traffic
from jsplit.privacy.reporting.jobs import Job, Sight
from jsplit.privacy.reporting.measuring import exposures
from jsplit.privacy.reporting.of_tokens import are_tokens
from jsplit.privacy.reporting.records import Outcome, Untested
from jsplit.privacy.reporting.registered import attempts
from jsplit.privacy.reporting.training import (
    Arrays,
    Trained,
    orders,
    take,
    trained,
    utility,
)
from jsplit.privacy.reporting.trying import Trying, log, said, threats_of
from jsplit.privacy.viewing.all_views import Views
from jsplit.privacy.viewing.building import views as views_of
from jsplit.topology.graph import Topology
from jsplit.training.config import Config


@dataclass(frozen=True)
class Setting:
    """What all trainers of a report have in common.

    Attributes:
        train: records that are trained on, by field.
        count: how many.
        test: records that losses and metrics are of.
        tested: how many.
        attempts: the attacks.
        public: public records, or `None`.
        known: whose labels are known.
        ranges: by field, the smallest and largest value.
        tables: by field, a public embedding of its tokens.
        epochs: passes over the records.
        batch: records in a step.
        watched: steps in a window.
        attacked: records of an inference that are attacked, at most.
        pictures: how many reconstructions are kept.
        steps: of each attack, or `None`.
        key: what all draw from.
    """

    train: Arrays
    count: int
    test: Arrays
    tested: int
    attempts: Sequence[Attempt]
    public: Arrays | None
    known: int | np.ndarray | None
    ranges: Mapping[str, tuple[float, float]]
    tables: Mapping[str, np.ndarray]
    epochs: int
    batch: int
    watched: int
    attacked: int
    pictures: int
    steps: int | None
    key: jax.Array


def outcome(
    name: str,
    trainer: Trainer,
    setting: Setting,
    state: TrainState | None,
    place: str = "1 of 1",
) -> Outcome:
    """Train with one trainer, and report on it.

    Args:
        name: of the defence.
        trainer: of all parties.
        setting: what all trainers have in common.
        state: of a training that is over, or `None`.
        place: which of how many trainers it is, for the log.

    Returns:
        All that the report says of it.
    """
    config = cast(Config, trainer.config)
    topology = config.topology
    # The same records in the same order for every defence.
    rng = np.random.default_rng(seed_of(setting.key))
    steps = setting.epochs * (setting.count // setting.batch)
    order = orders(setting.count, setting.batch, steps, rng)
    whose = f"trainer {place}, `{name}`"
    do = f"training, {steps} steps" if state is None else "watching steps"
    log.info("report: %s: %s", whose, do)
    run = trained(trainer, setting.train, order, setting.watched, setting.key, state)
    losses, metrics = utility(trainer, run.state, setting.test, setting.tested)
    shapes = abstract(take(setting.train, order[0]))
    views = views_of(trainer, shapes, state=run.state)
    rows = np.sort(rng.permutation(setting.count)[: setting.attacked])
    values = decoded(trainer, run.state, topology, take(setting.train, rows))
    untested: dict[Untested, None] = {}
    measured = exposures(
        *(views, values, take(setting.train, rows), setting.batch),
        *(setting.key, untested),
    )
    asked = _asked(trainer, run.state, topology, setting, untested)
    trying = Trying(
        *(topology, setting.train, setting.known, setting.public, asked),
        *(setting.ranges, setting.tables, setting.pictures, setting.steps),
        setting.key,
    )
    jobs: list[Job] = []
    for view in (views[p] for p in views):
        there = threats_of(view, setting.attempts, trying.untested)
        seen = inference_traffic(view, values, setting.train, rows)
        after = [Sight("after training", seen, rows)]
        during = [*_sights(view.party, run, topology, setting)] if there else []
        trying.skip_unread(there, view, setting.attempts)
        for attempt in (a for a in setting.attempts if a.threat in there):
            for sight in during if attempt.reads == "cotangents" else after:
                jobs += trying.jobs(attempt, view, sight)
    trying.run_all(jobs, whose)
    return Outcome(
        name,
        run.steps,
        setting.batch,
        setting.count,
        setting.tested,
        losses,
        metrics,
        _bytes(config, shapes),
        run.seconds,
        tuple(_proven(views)),
        tuple(trying.findings),
        measured,
        (*trying.untested, *untested, *_never(setting, topology)),
    )


def _sights(
    party: str, run: Trained, topology: Topology, setting: Setting
) -> Iterator[Sight]:
    """The windows of steps, for attacks on cotangents."""
    for window in run.windows:
        traffic = window.traffic(topology, party, setting.train)
        yield Sight(window.name, traffic, np.concatenate(window.places))


def _asked(
    trainer: Trainer,
    state: TrainState,
    topology: Topology,
    setting: Setting,
    untested: dict[Untested, None],
) -> dict[tuple[str, str], PyTree]:
    """What crosses of public records: the adversary's own questions to the model."""
    if setting.public is None:
        return {}
    read = {i for n in topology.segments for i in n.reads}
    lacking = sorted((read & set(topology.fields)) - set(setting.public))
    if lacking:
        why = f"`public` lacks {', '.join(f'`{f}`' for f in lacking)}"
        untested[Untested("attacks with public records", "", "", why)] = None
        return {}
    try:
        return decoded(trainer, state, topology, setting.public)
    except ValueError as error:
        untested[Untested("attacks with public records", "", "", said(error))] = None
        return {}


def _bytes(config: Config, shapes: Mapping[str, PyTree]) -> int:
    """What crosses in a step, as it is costed."""
    names = {name for _, name in config.links}
    ways = ("activation", "cotangent")
    links = {
        n: (config.links.get((ways[0], n)), config.links.get((ways[1], n)))
        for n in names
    }
    found = cost(
        config.topology,
        shapes,
        optimizer=config.optimizer,
        links=links,
        microbatches=config.microbatches,
        nonfinite=config.nonfinite,
        loss_scale=config.loss_scale,
    )
    return sum(m.bytes for m in found.messages)


def _proven(views: Views) -> Iterator[str]:
    """What crosses that is proven to be a field, a part of one, or a label."""
    for s in views.messages:
        if s.gives:
            gives = "; ".join(map(str, s.gives))
            yield f"the {s.kind} of `{s.name}` from {s.sender} to {s.receiver} {gives}"
    for t in views.together:
        if len(t.parties) > 1 and t.gives:
            gives = "; ".join(map(str, t.gives))
            yield f"what {' + '.join(t.parties)} have together {gives}"


def _never(setting: Setting, topology: Topology) -> Iterator[Untested]:
    """What this report tests nowhere: left out by the caller, or no attack of any report."""
    tried = {a.name for a in setting.attempts}
    for a in attempts():
        if a.name not in tried:
            yield Untested(a.name, "", "", "it was left out of `attacks`")
    if len(topology.parties) > 2:
        why = "each party attacks alone here; jsplit.privacy.views says who has what"
        yield Untested("parties that put together what they have", "", "", why)
    yield Untested(
        *("times, sizes, ids, and who takes part in which step", "", ""),
        "nothing here reads them",
    )
    yield Untested(
        *("property inference", "", ""),
        "nobody has said which property; jsplit.privacy.property_inference takes one",
    )
    yield Untested(
        *("simulation of a watched bottom (SDAR)", "", ""),
        "it trains a bottom of its own beside yours; jsplit.privacy.sdar does it",
    )
    labels = {i for loss in topology.losses for i in loss.reads}
    fields = [f for f in topology.fields if f not in labels]
    if not any(are_tokens(setting.train[f]) for f in fields):
        yield Untested(
            *("recovery of tokens", "", ""),
            "no field of these records but labels holds integers [records, positions], "
            "so there are none",
        )
