"""`jsplit train` of an agreement with epochs: what its options say, and a line for each epoch.

Which epochs there are and who decides is agreed; by what it decides is that party's own.
"""

from __future__ import annotations

import argparse
import json
import threading
import time

import numpy as np

from jsplit import party as parties
from jsplit.commands.brought import FOR_EPOCHS, Gathered, Given
from jsplit.commands.stopping import Lines, say
from jsplit.fitting import Epoch

_OPTIONS = ("monitor", "mode", "patience")


def add_options(one: argparse.ArgumentParser) -> None:
    """What the party that decides may say.

    Args:
        one: the parser of the command.
    """
    one.add_argument(
        "--monitor",
        help="of the party that decides: the column by which epochs are compared",
    )
    one.add_argument("--mode", choices=("min", "max"), help="which of it is better")
    one.add_argument(
        "--patience",
        type=int,
        help="of the party that decides: epochs without improvement after which all end",
    )


def refuse_without(options: argparse.Namespace, given: Given) -> None:
    """Refuse what would not act on an agreement without epochs.

    Raises:
        ValueError: naming it.
    """
    said = [f"--{name}" for name in _OPTIONS if getattr(options, name) is not None]
    said += sorted(given.keys() & FOR_EPOCHS)
    if said:
        raise ValueError(f"`{said[0]}` is for an agreement with `epochs`.")


class _Told:
    """A line on the terminal and in the log for each epoch."""

    def __init__(self, party: str, log: Lines):
        self.party, self.log = party, log

    def on_epoch(self, epoch: Epoch) -> None:
        """Show and log what an epoch was like."""
        numbers = {n: float(x) for n, x in epoch.row.items()}
        plain = {n: x if np.isfinite(x) else None for n, x in numbers.items()}
        line = {"time": time.time(), "epoch": epoch.number, "best": epoch.best, **plain}
        self.log.add(json.dumps(line, allow_nan=False))
        shown = "".join(f", {n} {x:.6f}" for n, x in numbers.items())
        best = ", the best so far" if epoch.best else ""
        say(f"{self.party}: epoch {epoch.number}{shown}{best}")


def fit(
    options: argparse.Namespace,
    gathered: Gathered,
    given: Given,
    stop: threading.Event,
    log: Lines,
) -> bool:
    """Train one party's part by epochs.

    Args:
        options: of the command line.
        gathered: what the party's process needs.
        given: what the user's function gives.
        stop: is set when it is asked to stop.
        log: gets a line of JSON for each epoch.

    Returns:
        Whether it was stopped before the end.
    """
    # What is said in the command counts before what the function says.
    said = {name: getattr(options, name) for name in _OPTIONS}
    said = {name: x for name, x in said.items() if x is not None}
    callbacks = [*given.get("callbacks", ()), _Told(options.party, log)]
    rest = {n: x for n, x in given.items() if n not in ("callbacks", "keep_replies")}
    fitted = parties.fit(
        gathered.agreed,
        options.party,
        folder=options.checkpoint,
        ids_key=options.ids_key,
        stop=stop,
        **gathered.reach,
        bound=gathered.bound,
        callbacks=callbacks,
        **{**rest, **said},
    )
    history = fitted.history
    stopped = history.stopped == "interrupted"
    best = "" if history.best is None else f", the best was epoch {history.best}"
    how = "stopped" if stopped else f"done by {history.stopped}"
    say(f"{options.party}: {how} after {len(history)} epochs{best}")
    return stopped
