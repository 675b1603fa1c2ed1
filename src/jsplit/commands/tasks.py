"""`jsplit train`, `jsplit evaluate` and `jsplit predict`: one party's process."""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from jsplit import party as parties
from jsplit.commands import epochs
from jsplit.commands.brought import Gathered, Given, gather
from jsplit.commands.outputs import check_file
from jsplit.commands.statuses import DONE, STOPPED
from jsplit.commands.stopping import Lines, asked_to_stop, say, stopped_at_once
from jsplit.core.base import PyTree
from jsplit.core.files import whole_file

_log = logging.getLogger("jsplit")


_ORDER = (
    "this party has neither records nor `ids`: the rows are in the order of the others' "
    'ids, sorted as text ("10" before "2")'
)


class Progress:
    """A line on the terminal about once a second, and every step in the log.

    Args:
        steps: of the run.
        log: gets a line of JSON for each step.
    """

    def __init__(self, steps: int, log: Lines):
        self.steps, self.log = steps, log
        # On the clock that `__call__` reads, so that the first step is shown at once.
        self.shown = 0.0

    def __call__(self, metrics: parties.Metrics) -> None:
        """Show and log what a step took."""
        line = {"time": time.time(), **metrics.plain()}
        # Python's JSON would write NaN, which no other reader of JSON takes.
        self.log.add(json.dumps(line, allow_nan=False))
        now = time.monotonic()
        if now - self.shown > 1 or metrics.step == self.steps:
            self.shown = now
            say(f"[{metrics.step}/{self.steps}] {metrics}")


@contextmanager
def _gathered(
    options: argparse.Namespace,
) -> Iterator[tuple[Gathered, threading.Event]]:
    """All that a party's process needs, and what is set when it is asked to stop."""
    with asked_to_stop() as stop:
        # Here nothing is lost by it, and the user's function may take long.
        with stopped_at_once():
            gathered = gather(options)
        yield gathered, stop


def train(options: argparse.Namespace) -> int:
    """Train one party's part.

    Args:
        options: of the command line.

    Returns:
        The exit status: `DONE` or `STOPPED`.
    """
    if options.checkpoint is None:
        _log.warning("without `--checkpoint` nothing of what is learned is kept")
    with _gathered(options) as (gathered, stop), closing(Lines(options.log)) as log:
        given = _guarded(gathered.given, options)
        if gathered.agreed.epochs is not None:
            stopped = epochs.fit(options, gathered, given, stop, log)
            return STOPPED if stopped else DONE
        epochs.refuse_without(options, given)
        result = parties.run(
            gathered.agreed,
            options.party,
            checkpoint=options.checkpoint,
            ids_key=options.ids_key,
            stop=stop,
            on_step=Progress(gathered.agreed.steps, log),
            **gathered.reach,
            bound=gathered.bound,
            **given,
        )
        # Within, here and below: what is left to do is not ended by a signal.
        for step, clients in result.away:
            # With it the run can be computed again, and who was left out learns of it.
            gone = ", ".join(clients) if clients else "nobody"
            say(f"{options.party}: from step {step} on {gone} was passed over")
        losses = [f", {name} {x[-1]:.6f}" for name, x in result.losses.items() if x]
        how = "stopped" if result.stopped else "done"
        say(f"{options.party}: {how} after step {result.step}{''.join(losses)}")
    return STOPPED if result.stopped else DONE


def _guarded(given: Given, options: argparse.Namespace) -> Given:
    """What the user's function gives, with what the command says of the guard."""
    if options.no_guard:
        return {**given, "guard": None}
    if options.guard is None:
        return given
    # The function's thresholds stay; what an alarm does is what the command says.
    rule = given.get("guard") or parties.Guard()
    return {**given, "guard": replace(rule, policy=options.guard)}


def infer(options: argparse.Namespace) -> int:
    """Evaluate or predict with one party's part, and print or write what it computes.

    Args:
        options: of the command line.

    Returns:
        The exit status: `DONE` or `STOPPED`.
    """
    with _gathered(options) as (gathered, stop), closing(Lines(options.log)) as log:
        agreed, addresses = gathered.agreed, gathered.addresses
        if options.client:
            agreed = agreed.of(options.client)
            # An address of somebody else's client is no fault: one script may give them all.
            addresses = {p: x for p, x in addresses.items() if p in agreed.parties}
        # The same function serves training, so what only that needs is left aside.
        given = gathered.given
        kept = {
            name: given[name] for name in ("own", "data", "ids", "links") & given.keys()
        }
        predicts = options.command == "predict"
        if predicts and _gives_outputs(agreed, options.party):
            check_file(_archive_of(options.out))
        work = parties.predict if predicts else parties.evaluate
        result = work(
            agreed,
            options.party,
            records=options.records,
            credentials=gathered.credentials,
            checkpoint=options.checkpoint,
            ids_key=options.ids_key,
            stop=stop,
            listen=gathered.listen,
            addresses=addresses,
            pulse=gathered.pulse,
            bound=gathered.bound,
            **kept,
        )
        if result.stopped:
            say(f"{options.party}: stopped, nothing was computed")
            return STOPPED
        log.add(_as_json(result))
        _tell(result, options.party, options.out if predicts else None)
        if predicts and result.outputs and not kept.get("ids") and not kept.get("data"):
            # Else the rows of one record would be taken for those of another.
            say(f"{options.party}: {_ORDER}")
    return DONE


def _tell(result: parties.Result, party: str, out: Path | None) -> None:
    """Print what was computed; outputs are written into the file `out`."""
    # Of which state the numbers are: the newest that all parties have.
    say(f"{party}: with what was learned by step {result.step}")
    for name, x in result.losses.items():
        say(f"{party}: {name} {x:.6f}")
    for name, x in result.metrics.items():
        shown = f"{x:.6f}" if isinstance(x, float) else x
        say(f"{party}: {name} {shown}")
    if out is not None and result.outputs:
        say(str(_write(out, _by_path(result.outputs))))
    elif not result.losses and not result.metrics:
        say(f"{party}: done, nothing of the result is computed here")


def _as_json(result: parties.Result) -> str:
    """The numbers of an inference as one line of JSON."""
    numbers = {**result.losses, **result.metrics}
    # As in training: no other reader of JSON takes NaN.
    plain = {n: x if np.isfinite(x) else None for n, x in numbers.items()}
    line = {"time": time.time(), "step": result.step, **plain}
    return json.dumps(line, allow_nan=False)


def _gives_outputs(agreed: parties.Agreement, party: str) -> bool:
    """Whether a party computes some of the outputs."""
    topology, role = agreed.topology_of_strangers, agreed.turns.role[party]
    return any(topology.node[name].party == role for name in topology.sinks)


def _archive_of(file: Path) -> Path:
    """The file as NumPy itself calls it, of a name that it is given."""
    return file if file.suffix == ".npz" else file.with_name(f"{file.name}.npz")


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write outputs for this party alone; gives the file."""
    file = _archive_of(file)
    with whole_file(file) as f:
        np.savez(f, allow_pickle=False, **arrays)
    return file


def _by_path(tree: PyTree, at: str = "") -> dict[str, np.ndarray]:
    """Arrays by the path to them, as names in an archive of NumPy."""
    if isinstance(tree, Mapping):
        parts = [*tree.items()]
    elif isinstance(tree, (list, tuple)):
        parts = [*enumerate(tree)]
    else:
        return {at: np.asarray(tree)}
    found = {}
    for name, part in parts:
        found |= _by_path(part, f"{at}/{name}" if at else str(name))
    return found
