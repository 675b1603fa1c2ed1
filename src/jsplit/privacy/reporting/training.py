"""One training, of which the steps of some windows are kept as each party has seen them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple, cast

import jax
import numpy as np

from jsplit.core.base import PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.watching import traffic_of
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.record import RecordingTrainer, record
from jsplit.training.recording import Crossed, Recorded

Arrays = Mapping[str, PyTree]


class Window(NamedTuple):
    """Some steps that are watched.

    Attributes:
        name: "first 16 steps".
        places: by step, which records were in it, int [batch] each.
        numbers: of the steps.
        told: what crossed in them.
    """

    name: str
    places: list[np.ndarray]
    numbers: list[int]
    told: list[Recorded]

    def traffic(self, topology: Topology, party: str, data: Arrays) -> Traffic:
        """What one party has seen of these steps.

        Args:
            topology: who holds what.
            party: whose view it is.
            data: all records.
        """
        held = topology.holds.get(party, ())
        own = {f: data[f] for f in held if f in data}
        fields = [take(own, rows) for rows in self.places]
        return traffic_of(self.told, party, fields=fields, steps=self.numbers)


class Trained(NamedTuple):
    """A training that is over.

    Attributes:
        state: of all parties.
        windows: the steps that were watched.
        steps: how many steps it has taken.
        seconds: of wall time, compiling included.
    """

    state: TrainState
    windows: list[Window]
    steps: int
    seconds: float


def take(data: Arrays, rows: np.ndarray) -> dict[str, PyTree]:
    """Some records of all fields."""
    return {f: jax.tree.map(lambda x: x[rows], v) for f, v in data.items()}


def orders(count: int, batch: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Which records are in each step: shuffled passes, what fills no batch left out.

    Args:
        count: of records.
        batch: of a step, at most `count`.
        steps: how many.
        rng: what is drawn from.

    Returns:
        int [steps, batch].
    """
    in_pass = count // batch
    passes = -(-steps // in_pass)
    found = [rng.permutation(count)[: in_pass * batch] for _ in range(passes)]
    return np.concatenate(found).reshape(-1, batch)[:steps]


def trained(
    trainer: Trainer,
    data: Arrays,
    order: np.ndarray,
    watched: int,
    key: jax.Array,
    state: TrainState | None = None,
) -> Trained:
    """Train, and keep what crossed in the first and in the last steps.

    Args:
        trainer: of all parties.
        data: the records.
        order: which are in each step, int [steps, batch].
        watched: steps in a window.
        key: of the first state.
        state: of a training that is over: then only as many steps as a window has go on
            from it, to see cotangents, and their result is dropped.

    Returns:
        The state and what was watched.
    """
    start = perf_counter()
    recording = _without_donation(trainer)
    windows = _windows(len(order), watched, given=state is not None)
    here = state or recording.init(key, take(data, order[0]))
    for number in range(watched if state is not None else len(order)):
        rows = order[number % len(order)]
        here, recorded = recording.step(here, take(data, rows))
        for window, steps in windows:
            if number in steps:
                window.places.append(rows)
                window.numbers.append(number)
                window.told.append(_kept(recorded))
    jax.block_until_ready([p.params for p in here.parties.values()])
    seconds = perf_counter() - start
    found = [window for window, _ in windows]
    if state is not None:
        return Trained(state, found, 0, seconds)
    return Trained(here, found, len(order), seconds)


def _windows(steps: int, watched: int, *, given: bool) -> list[tuple[Window, range]]:
    """Windows with their steps: a model leaks otherwise at the start than at the end."""

    def window(name: str, steps: range) -> tuple[Window, range]:
        return Window(name, [], [], []), steps

    if given:
        return [window(f"{watched} steps more", range(watched))]
    if steps <= 2 * watched:
        return [window(f"all {steps} steps", range(steps))]
    return [
        window(f"first {watched} steps", range(watched)),
        window(f"last {watched} steps", range(steps - watched, steps)),
    ]


def _kept(recorded: Recorded) -> Recorded:
    """What crossed, on the host and without payloads, which nobody reads here."""
    crossed = {at: Crossed((), x.value) for at, x in recorded.crossed.items()}
    return Recorded(recorded.info, jax.tree.map(np.asarray, crossed))


def _without_donation(trainer: Trainer) -> RecordingTrainer:
    config = trainer.config
    # A state of the caller's must stay valid.
    if isinstance(config, Config) and config.donate and trainer.remake is not None:
        trainer = trainer.remake(config._replace(donate=False))
    return record(trainer)


def utility(
    trainer: Trainer, state: TrainState, test: Arrays, count: int, most: int = 1024
) -> tuple[dict[str, float], dict[str, float]]:
    """Losses and metrics of test records, in inference mode.

    Args:
        trainer: of all parties.
        state: of all parties.
        test: the records.
        count: how many there are.
        most: how many are evaluated at a time.

    Returns:
        Both by name.
    """
    rows: Sequence[np.ndarray] = np.split(np.arange(count), range(most, count, most))
    info = trainer.evaluate(state, [take(test, r) for r in rows])
    losses = {n: float(x) for n, x in info.losses.items()}
    return losses, {n: float(cast(float, x)) for n, x in info.metrics.items()}
